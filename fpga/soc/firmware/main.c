/* Runs every network of networks.h on its inputs, driven by interrupts, and prints class, cycles and output bytes; then
 * again for each byte that the UART receives. SPDX-License-Identifier: Apache-2.0 */
#include "networks.h"

#define UART ((volatile uint32_t *)0xF0000000u) /* send, receive, cycles, LEDs */
#define NPU ((void *)0xF0010000u)
#define MACHINE_EXTERNAL (1u << 11) /* in mie */
#define NPU_INTERRUPT 1u            /* in the mask of the interrupt lines */

static lepton device;
static uint8_t arena[ARENA_BYTES] LEPTON_ALIGNED;

static void print(const char *text) {
    for (; *text != '\0'; text++) {
        while (UART[0] == 0u) {
        }
        UART[0] = (uint32_t)*text;
    }
}

static void print_number(uint32_t value) {
    char text[11];
    char *at = text + sizeof text - 1;
    *at = '\0';
    do {
        *--at = (char)('0' + value % 10u);
        value /= 10u;
    } while (value != 0u);
    print(at);
}

static void print_bytes(const int8_t *data, uint32_t count) {
    static const char digits[] = "0123456789abcdef";
    for (uint32_t i = 0u; i < count; i++) {
        char text[3] = {digits[(uint8_t)data[i] >> 4], digits[(uint8_t)data[i] & 15u], '\0'};
        print(text);
    }
}

/* The data cache forgets all; what it was given to write is in memory already. */
static void invalidate(void *context, void *start, size_t bytes) {
    (void)context, (void)start, (void)bytes;
    __asm__ volatile(".word 0x500F" ::: "memory");
}

static void __attribute__((interrupt("machine"))) on_interrupt(void) {
    (void)lepton_step(&device);
}

static void interrupts(int on) {
    if (on) {
        __asm__ volatile("csrsi mstatus, 8" ::: "memory");
    } else {
        __asm__ volatile("csrci mstatus, 8" ::: "memory");
    }
}

static void check(lepton_result result) {
    if (result != LEPTON_OK) {
        UART[3] = 4u;
        print("error: ");
        print(lepton_text(result));
        print("\nend\n");
        for (;;) {
        }
    }
}

static void run(const network *net) {
    static int8_t output[OUTPUT_BYTES];
    print(net->name);
    print("\n");
    check(lepton_load(&device, net->model, arena, sizeof arena));
    for (uint32_t i = 0u; i < net->count; i++) {
        uint32_t start = UART[2];
        check(lepton_set_input(&device, 0u, net->inputs + i * net->input_bytes, net->input_bytes));
        interrupts(1);
        check(lepton_start(&device, NULL, NULL));
        while (device.result == LEPTON_BUSY) {
        }
        interrupts(0);
        check(device.result);
        check(lepton_get_output(&device, 0u, output, net->output_bytes));
        uint32_t cycles = UART[2] - start, best = 0u;
        for (uint32_t k = 1u; k < net->output_bytes; k++) {
            best = output[k] > output[best] ? k : best;
        }
        print_number(i);
        print(" class ");
        print_number(best);
        print(" cycles ");
        print_number(cycles);
        print(" array ");
        print_number(device.cycles);
        print(" output ");
        print_bytes(output, net->output_bytes);
        print("\n");
    }
}

int main(void) {
    static const lepton_system system = {lepton_mmio_read, lepton_mmio_write, NULL, NULL, invalidate, NULL, NPU};
    __asm__ volatile("csrw mtvec, %0" ::"r"(on_interrupt));
    __asm__ volatile("csrs mie, %0" ::"r"(MACHINE_EXTERNAL));
    __asm__ volatile("csrw 0xBC0, %0" ::"r"(NPU_INTERRUPT));
    check(lepton_open(&device, &system));
    for (;;) {
        UART[3] = 1u;
        for (uint32_t i = 0u; i < NETWORKS; i++) {
            run(&networks[i]);
        }
        UART[3] = 2u;
        print("end\n");
        while ((UART[1] >> 31) != 0u) {
        }
    }
}
