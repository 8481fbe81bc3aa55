/* A whole chunk of setpoints, as it is collected and then entered into the ring. */
#ifndef CHUNK_H
#define CHUNK_H

#include <stdbool.h>
#include <stdint.h>

#include "serial_link.h"

struct chunk {
    uint32_t id;
    uint32_t first_tick;
    uint32_t observed_tick; /* of the observation that the chunk answers */
    uint8_t steps;
    uint8_t joints;
    int16_t counts[LINK_MAX_HORIZON][LINK_MAX_JOINTS];
};

/* Numbers of chunks and ticks wrap around; "later" means a difference below half the range. */
static inline int32_t wrapped_difference(uint32_t a, uint32_t b)
{
    const uint32_t difference = a - b;
    return difference <= INT32_MAX ? (int32_t)difference : -(int32_t)(UINT32_MAX - difference) - 1;
}

#endif
