/* What `lepton compile --c` writes a model with. SPDX-License-Identifier: Apache-2.0 */
#ifndef LEPTON_MODEL_H
#define LEPTON_MODEL_H

#include "lepton.h"

#if defined(__GNUC__)
#define LEPTON_ALIGNED __attribute__((aligned(16)))
#else
#define LEPTON_ALIGNED
#endif

#define LEPTON_NONE 0xFFFFFFFFu

/* An input or output. */
typedef struct {
    uint32_t offset, bytes; /* in the arena; of the tensor */
} lepton_end;

typedef enum { LEPTON_RUN, LEPTON_SOFTMAX } lepton_kind;

typedef struct {
    lepton_kind kind;
    uint32_t pc;                         /* LEPTON_RUN */
    uint32_t input, output, rows, depth; /* LEPTON_SOFTMAX: offsets in the arena, rows of `depth` */
    const int32_t *exponentials;         /* of 0, -1, ... -255 below the largest */
} lepton_operation;

struct lepton_model {
    const char *name;
    const uint8_t *image;
    uint32_t image_bytes, arena_bytes;
    uint32_t identity[8]; /* registers SHAPE, SIZES, WEIGHT_TILES, PARAMS, PROGRAM_WORDS, RING_TILES, MEMORY_WIDTH, MEMORY_BYTES */
    uint32_t setup;       /* word to start at once, or LEPTON_NONE */
    const lepton_operation *operations;
    const lepton_end *inputs, *outputs;
    uint32_t operation_count, input_count, output_count;
};

#endif
