/* Lepton's driver: see lepton.h. SPDX-License-Identifier: Apache-2.0 */
#include "lepton.h"

#include "lepton_model.h"
#include "lepton_regs.h"

void *memcpy(void *to, const void *from, size_t bytes);

static const uint16_t identity_registers[8] = {
    LEPTON_SHAPE, LEPTON_SIZES, LEPTON_WEIGHT_TILES, LEPTON_PARAMS, LEPTON_PROGRAM_WORDS, LEPTON_RING_TILES,
    LEPTON_MEMORY_WIDTH, LEPTON_MEMORY_BYTES};

const char *lepton_text(lepton_result result) {
    static const char *const texts[] = {
        "ok",
        "an inference is under way",
        "no Lepton at this address",
        "another version of the interface than the driver's",
        "the model is compiled for another configuration",
        "no such input or output, a wrong size, or an address that is not aligned",
        "no model is loaded",
        "the machine refused an instruction: the image is damaged or not where it looks",
        "the memory refused an access",
        "the machine waits for what never comes",
        "the device was reset: load the model again"};
    return (unsigned)result < sizeof texts / sizeof texts[0] ? texts[result] : "unknown result";
}

uint32_t lepton_mmio_read(void *context, uint32_t offset) {
    return ((volatile uint32_t *)context)[offset / 4u];
}

void lepton_mmio_write(void *context, uint32_t offset, uint32_t value) {
    ((volatile uint32_t *)context)[offset / 4u] = value;
}

static uint32_t get(const lepton *device, uint32_t offset) {
    return device->system->read(device->system->context, offset);
}

static void put(const lepton *device, uint32_t offset, uint32_t value) {
    device->system->write(device->system->context, offset, value);
}

static uint32_t address(const lepton *device, const void *pointer) {
    const lepton_system *system = device->system;
    return system->address != NULL ? system->address(system->context, pointer) : (uint32_t)(uintptr_t)pointer;
}

/* --- Arithmetic of TensorFlow Lite Micro: 32-bit fixed point --- */

/* a * b / 2**31, rounded; both at -2**31 saturates. */
static int32_t high(int32_t a, int32_t b) {
    const int64_t half = (int64_t)1 << 30, whole = (int64_t)1 << 31;
    int64_t sum = (int64_t)a * b + half;
    int64_t quotient = sum >= 0 ? (int64_t)((uint64_t)sum >> 31) : -((whole - 1 - sum) / whole);
    return quotient > INT32_MAX ? INT32_MAX : (int32_t)quotient;
}

/* x / 2**exponent, halves up, for x >= 0 and exponent > 0. */
static uint32_t divide(int32_t x, uint32_t exponent) {
    return exponent > 31u ? 0u : ((uint32_t)x + ((uint32_t)1 << (exponent - 1u))) >> exponent;
}

/* x * 2**exponent, saturated. */
static int32_t scale_up(int32_t x, uint32_t exponent) {
    int64_t wide = (int64_t)x * ((int64_t)1 << exponent);
    return wide > INT32_MAX ? INT32_MAX : wide < INT32_MIN ? INT32_MIN : (int32_t)wide;
}

/* 1 / (1 + x) for x in [0, 1), 31 fraction bits both: three steps of Newton. */
static int32_t reciprocal(int32_t x) {
    int32_t half = (int32_t)(((int64_t)x + INT32_MAX + 1) / 2), y = 1515870810 + high(half, -1010580540);
    for (int step = 0; step < 3; step++) {
        int32_t error = ((int32_t)1 << 29) - high(half, y);
        y += scale_up(high(y, error), 2u);
    }
    return scale_up(y, 1u);
}

static void softmax_row(const int8_t *in, int8_t *out, uint32_t depth, const int32_t *exponentials) {
    int32_t largest = in[0];
    uint32_t sum = 0u, headroom = 0u, i;
    int32_t shift, factor;
    for (i = 1u; i < depth; i++) {
        largest = in[i] > largest ? in[i] : largest;
    }
    for (i = 0u; i < depth; i++) {
        sum += divide(exponentials[largest - in[i]], 12u);
    }
    while (headroom < 31u && (sum << headroom >> 31) == 0u) {
        headroom++;
    }
    factor = reciprocal((int32_t)((sum << headroom) & 0x7FFFFFFFu));
    shift = 35 - (int32_t)headroom;
    for (i = 0u; i < depth; i++) {
        int32_t y = (int32_t)divide(high(factor, exponentials[largest - in[i]]), (uint32_t)shift) - 128;
        out[i] = (int8_t)(y > 127 ? 127 : y);
    }
}

/* --- An inference --- */

#define SETUP 0xFFFFFFFFu /* `step` while lepton_load waits */

static int busy(const lepton *device) {
    return device->model != NULL && device->step != device->model->operation_count;
}

static void begin_run(lepton *device, uint32_t pc) {
    device->run = device->run == UINT32_MAX ? 1u : device->run + 1u;
    put(device, LEPTON_PC, pc);
    put(device, LEPTON_START, device->run);
}

static lepton_result run_result(const lepton *device) {
    uint32_t status = get(device, LEPTON_STATUS);
    if (get(device, LEPTON_RUN_ID) != device->run) {
        return LEPTON_LOST;
    }
    switch (status) {
    case LEPTON_STATUS_IS_RUNNING: return LEPTON_BUSY;
    case LEPTON_STATUS_IS_DONE: return LEPTON_OK;
    case LEPTON_STATUS_IS_IDLE: return LEPTON_LOST;
    case LEPTON_STATUS_IS_STALLED: return LEPTON_STALLED;
    case LEPTON_STATUS_IS_BUS_ERROR: return LEPTON_BUS_ERROR;
    default: return LEPTON_BAD_PROGRAM;
    }
}

static void clean(const lepton *device, const void *start, size_t bytes) {
    if (device->system->clean != NULL) {
        device->system->clean(device->system->context, start, bytes);
    }
}

static void invalidate(const lepton *device) {
    if (device->system->invalidate != NULL) {
        device->system->invalidate(device->system->context, device->arena, device->model->arena_bytes);
    }
}

static void end(lepton *device, lepton_result result) {
    device->step = device->model->operation_count;
    device->result = result;
    if (device->callback != NULL) {
        device->callback(device, result, device->argument);
    }
}

/* Carry out what the processor does, from `step` on, and start the next run. */
static void go_on(lepton *device) {
    const lepton_model *model = device->model;
    while (device->step < model->operation_count) {
        const lepton_operation *now = &model->operations[device->step];
        if (now->kind == LEPTON_RUN) {
            clean(device, device->arena, model->arena_bytes);
            begin_run(device, now->pc);
            return;
        }
        for (uint32_t row = 0u; row < now->rows; row++) {
            const int8_t *in = (const int8_t *)(device->arena + now->input) + row * now->depth;
            softmax_row(in, (int8_t *)(device->arena + now->output) + row * now->depth, now->depth, now->exponentials);
        }
        device->step++;
    }
    end(device, LEPTON_OK);
}

lepton_result lepton_open(lepton *device, const lepton_system *system) {
    device->system = system;
    device->model = NULL;
    device->arena = NULL;
    device->callback = NULL;
    device->argument = NULL;
    device->run = 0u;
    device->cycles = 0u;
    device->step = 0u;
    device->result = LEPTON_OK;
    if (get(device, LEPTON_MAGIC) != LEPTON_MAGIC_VALUE) {
        return LEPTON_NO_DEVICE;
    }
    if (get(device, LEPTON_VERSION) != LEPTON_VERSION_VALUE) {
        return LEPTON_WRONG_VERSION;
    }
    lepton_reset(device);
    return LEPTON_OK;
}

void lepton_reset(lepton *device) {
    put(device, LEPTON_RESET, 1u);
    put(device, LEPTON_IRQ_STATUS, LEPTON_IRQ_STATUS_DONE_MASK | LEPTON_IRQ_STATUS_ERROR_MASK);
    device->model = NULL;
}

lepton_result lepton_load(lepton *device, const lepton_model *model, void *arena, size_t bytes) {
    if (busy(device)) {
        return LEPTON_BUSY;
    }
    device->model = NULL;
    for (uint32_t i = 0u; i < 8u; i++) {
        if (get(device, identity_registers[i]) != model->identity[i]) {
            return LEPTON_WRONG_MACHINE;
        }
    }
    uint32_t image = address(device, model->image), start = address(device, arena);
    if (bytes < model->arena_bytes || ((image | start) & 15u) != 0u) {
        return LEPTON_BAD_ARGUMENT;
    }
    clean(device, model->image, model->image_bytes);
    put(device, LEPTON_IMAGE, image);
    put(device, LEPTON_ARENA, start);
    put(device, LEPTON_IRQ_ENABLE, LEPTON_IRQ_ENABLE_DONE_MASK | LEPTON_IRQ_ENABLE_ERROR_MASK);
    device->arena = arena;
    device->model = model;
    device->callback = NULL;
    device->step = model->operation_count;
    device->result = LEPTON_OK;
    if (model->setup != LEPTON_NONE) {
        device->result = LEPTON_BUSY;
        device->step = SETUP;
        begin_run(device, model->setup);
        lepton_result result = lepton_wait(device);
        if (result != LEPTON_OK) {
            device->model = NULL;
            return result;
        }
    }
    return LEPTON_OK;
}

lepton_result lepton_set_input(lepton *device, uint32_t index, const void *data, size_t bytes) {
    if (device->model == NULL) {
        return LEPTON_NOT_LOADED;
    }
    if (busy(device)) {
        return LEPTON_BUSY;
    }
    if (index >= device->model->input_count || bytes != device->model->inputs[index].bytes) {
        return LEPTON_BAD_ARGUMENT;
    }
    const lepton_end *input = &device->model->inputs[index];
    (void)memcpy(device->arena + input->offset, data, bytes);
    return LEPTON_OK;
}

lepton_result lepton_get_output(const lepton *device, uint32_t index, void *data, size_t bytes) {
    if (device->model == NULL) {
        return LEPTON_NOT_LOADED;
    }
    if (busy(device)) {
        return LEPTON_BUSY;
    }
    if (index >= device->model->output_count || bytes != device->model->outputs[index].bytes) {
        return LEPTON_BAD_ARGUMENT;
    }
    (void)memcpy(data, device->arena + device->model->outputs[index].offset, bytes);
    return LEPTON_OK;
}

lepton_result lepton_start(lepton *device, lepton_callback callback, void *argument) {
    if (device->model == NULL) {
        return LEPTON_NOT_LOADED;
    }
    if (busy(device)) {
        return LEPTON_BUSY;
    }
    device->callback = callback;
    device->argument = argument;
    device->result = LEPTON_BUSY;
    device->cycles = 0u;
    device->step = 0u;
    go_on(device);
    return LEPTON_OK;
}

lepton_result lepton_step(lepton *device) {
    if (device->model == NULL) {
        return LEPTON_NOT_LOADED;
    }
    if (busy(device)) {
        lepton_result result = run_result(device);
        if (result == LEPTON_BUSY) {
            return LEPTON_BUSY;
        }
        put(device, LEPTON_IRQ_STATUS, LEPTON_IRQ_STATUS_DONE_MASK | LEPTON_IRQ_STATUS_ERROR_MASK);
        device->cycles += get(device, LEPTON_CYCLES);
        invalidate(device);
        if (result == LEPTON_OK && device->step != SETUP) {
            device->step++;
            go_on(device);
        } else {
            end(device, result);
        }
    }
    return device->result;
}

lepton_result lepton_wait(lepton *device) {
    lepton_result result;
    while ((result = lepton_step(device)) == LEPTON_BUSY) {
        if (device->system->idle != NULL) {
            device->system->idle(device->system->context);
        }
    }
    return result;
}

lepton_result lepton_invoke(lepton *device) {
    lepton_result result = lepton_start(device, NULL, NULL);
    return result == LEPTON_OK ? lepton_wait(device) : result;
}
