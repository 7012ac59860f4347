/* Lepton, an int8 neural-network accelerator: its driver.
 *
 * C99, freestanding: no heap, no globals, of the library memcpy alone. A `lepton` is one device; it is used by one thread at a
 * time, but for `lepton_step`, which an interrupt handler may call while an inference is under way.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LEPTON_H
#define LEPTON_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    LEPTON_OK,
    LEPTON_BUSY,          /* an inference is under way */
    LEPTON_NO_DEVICE,     /* MAGIC is not there */
    LEPTON_WRONG_VERSION, /* another interface than this driver's */
    LEPTON_WRONG_MACHINE, /* the model is compiled for another configuration */
    LEPTON_BAD_ARGUMENT,  /* no such input or output, an arena that is too small, an address that is not aligned */
    LEPTON_NOT_LOADED,    /* lepton_load comes first */
    LEPTON_BAD_PROGRAM,   /* the machine refused an instruction: the image is damaged, or does not reach it */
    LEPTON_BUS_ERROR,     /* the memory refused an access */
    LEPTON_STALLED,       /* the machine waits for what never comes */
    LEPTON_LOST           /* the device was reset meanwhile: load again */
} lepton_result;

/* A word for each of them. */
const char *lepton_text(lepton_result result);

/* What the system around the device has. Functions may be NULL but for `read` and `write`. */
typedef struct {
    uint32_t (*read)(void *context, uint32_t offset); /* of a register; lepton_mmio_read for plain memory-mapped ones */
    void (*write)(void *context, uint32_t offset, uint32_t value);
    uint32_t (*address)(void *context, const void *pointer); /* as the device sees it; NULL: the pointer's own value */
    void (*clean)(void *context, const void *start, size_t bytes); /* caches to memory, and a barrier: before a run */
    void (*invalidate)(void *context, void *start, size_t bytes);  /* caches forget: after a run */
    void (*idle)(void *context); /* called again and again while lepton_wait waits: sleep, yield, count a timeout */
    void *context;               /* what they are given; for lepton_mmio_*, the first register */
} lepton_system;

uint32_t lepton_mmio_read(void *context, uint32_t offset);
void lepton_mmio_write(void *context, uint32_t offset, uint32_t value);

/* A compiled network, made by `lepton compile --c`. */
typedef struct lepton_model lepton_model;

/* One device. Its members are the driver's own. */
typedef struct lepton lepton;
typedef void (*lepton_callback)(lepton *device, lepton_result result, void *argument);
struct lepton {
    const lepton_system *system;
    const lepton_model *model;
    uint8_t *arena;
    lepton_callback callback;
    void *argument;
    uint32_t run;          /* the last run's id */
    uint32_t cycles;       /* the last inference's, of all its runs: of the device, not of the processor */
    volatile uint32_t step; /* the operation under way; their number when none is */
    volatile lepton_result result;
};

/* Find the device. `system` must live as long as it does. */
lepton_result lepton_open(lepton *device, const lepton_system *system);

/* Give it a model and an arena (a multiple of 16, of the size that the model's header says), and set it up. Blocks, as
 * lepton_wait: with an interrupt handler that calls lepton_step, mask the interrupt. */
lepton_result lepton_load(lepton *device, const lepton_model *model, void *arena, size_t bytes);

/* Copy an input into the arena, an output out of it. `bytes` is its size. */
lepton_result lepton_set_input(lepton *device, uint32_t index, const void *data, size_t bytes);
lepton_result lepton_get_output(const lepton *device, uint32_t index, void *data, size_t bytes);

/* One inference, blocking. */
lepton_result lepton_invoke(lepton *device);

/* Begin one. `callback` (may be NULL) is called at its end, by whoever calls lepton_step then. */
lepton_result lepton_start(lepton *device, lepton_callback callback, void *argument);

/* Go on: from the interrupt handler, or now and then. LEPTON_BUSY until the end. */
lepton_result lepton_step(lepton *device);

/* Wait for the end, without an interrupt. */
lepton_result lepton_wait(lepton *device);

/* Stop what is under way; the model is to be loaded again. */
void lepton_reset(lepton *device);

#endif
