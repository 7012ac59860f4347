/* Lepton from Linux user space: registers by UIO (/dev/uio0), image and arena in memory that stays where it is (/dev/mem at
   a reserved range, or /dev/udmabuf0), waiting in read() for the interrupt. Built with the C of `lepton compile --c`:

       cc -std=c99 -DMODEL_HEADER='"kws.h"' -DMODEL=kws_model lepton_uio.c kws.c lepton.c

   lepton_uio UIO MEMORY PHYSICAL INPUT OUTPUT: PHYSICAL is the address of MEMORY's first byte on the bus.
   SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include MODEL_HEADER
#include "lepton_model.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct linux_system {
    uint32_t *registers;
    uint8_t *memory; /* as this process sees it */
    uint32_t physical;
    int interrupt;
};

static uint32_t get(void *context, uint32_t offset) {
    return lepton_mmio_read(((struct linux_system *)context)->registers, offset);
}

static void put(void *context, uint32_t offset, uint32_t value) {
    lepton_mmio_write(((struct linux_system *)context)->registers, offset, value);
}

static uint32_t address(void *context, const void *pointer) {
    const struct linux_system *linux_system = context;
    return linux_system->physical + (uint32_t)((const uint8_t *)pointer - linux_system->memory);
}

/* Until the next interrupt; UIO wants it enabled each time. */
static void idle(void *context) {
    int interrupt = ((struct linux_system *)context)->interrupt;
    uint32_t on = 1u, count;
    if (write(interrupt, &on, sizeof on) != sizeof on || read(interrupt, &count, sizeof count) != sizeof count) {
        perror("UIO");
        exit(1);
    }
}

static void *mapped(int file, size_t bytes, const char *name) {
    void *start = file < 0 ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (start == MAP_FAILED) {
        perror(name);
        exit(1);
    }
    return start;
}

static void transfer(const char *name, int out, void *data, size_t bytes) {
    FILE *file = fopen(name, out ? "wb" : "rb");
    if (file == NULL || (out ? fwrite(data, 1, bytes, file) : fread(data, 1, bytes, file)) != bytes || fclose(file) != 0) {
        perror(name);
        exit(1);
    }
}

static void must(lepton_result result) {
    if (result != LEPTON_OK) {
        fprintf(stderr, "lepton: %s\n", lepton_text(result));
        exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "lepton_uio UIO MEMORY PHYSICAL INPUT OUTPUT\n");
        return 2;
    }
    size_t image = (MODEL.image_bytes + 4095u) & ~(size_t)4095u, bytes = image + MODEL.arena_bytes;
    struct linux_system context;
    context.interrupt = open(argv[1], O_RDWR);
    context.registers = mapped(context.interrupt, 4096u, argv[1]);
    context.memory = mapped(open(argv[2], O_RDWR | O_SYNC), bytes, argv[2]);
    context.physical = (uint32_t)strtoul(argv[3], NULL, 0);

    /* The model, with its image where the device reaches it. */
    lepton_model model = MODEL;
    memcpy(context.memory, MODEL.image, MODEL.image_bytes);
    model.image = context.memory;

    lepton device;
    const lepton_system system = {get, put, address, NULL, NULL, idle, &context};
    must(lepton_open(&device, &system));
    must(lepton_load(&device, &model, context.memory + image, MODEL.arena_bytes));
    uint8_t *data = malloc(model.inputs[0].bytes + model.outputs[0].bytes);
    if (data == NULL) {
        perror("memory");
        return 1;
    }
    transfer(argv[4], 0, data, model.inputs[0].bytes);
    must(lepton_set_input(&device, 0u, data, model.inputs[0].bytes));
    must(lepton_invoke(&device));
    must(lepton_get_output(&device, 0u, data, model.outputs[0].bytes));
    transfer(argv[5], 1, data, model.outputs[0].bytes);
    free(data);
    return 0;
}
