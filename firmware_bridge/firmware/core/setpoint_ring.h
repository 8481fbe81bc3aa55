/* The setpoints ahead, keyed by the absolute tick at which each is due.
 *
 * The main loop enters whole chunks while the servo interrupt is masked; the interrupt only looks up. A newer chunk
 * replaces the setpoints of an older one from SETPOINT_GUARD ticks ahead on, and removes the setpoints of the older one
 * after its own end. */
#ifndef SETPOINT_RING_H
#define SETPOINT_RING_H

#include "chunk.h"

#define SETPOINT_GUARD 2 /* the nearest tick, counted from the last executed one, that a chunk may still change */

struct setpoint {
    uint32_t tick;
    uint32_t chunk_id; /* 0: empty */
    uint32_t observed_tick; /* of the observation behind it */
    int16_t counts[LINK_MAX_JOINTS];
};

struct setpoint_ring {
    struct setpoint entries[LINK_RING_DEPTH];
    uint32_t newest_chunk; /* 0: none */
};

/* Removes every setpoint and the number of the newest chunk. */
void setpoint_ring_clear(struct setpoint_ring *ring);

/* Returns the setpoint due at `tick`, or a null pointer. */
const struct setpoint *setpoint_ring_at(const struct setpoint_ring *ring, uint32_t tick);

/* Returns how many setpoints are due after `now`. */
uint16_t setpoint_ring_level(const struct setpoint_ring *ring, uint32_t now);

/* Enters the steps of `chunk` that are not late. ACCEPTED, STALE, LATE (all of it) or TOO_FAR_AHEAD (nothing
 * entered). `now` is the last executed tick. */
enum link_chunk_result setpoint_ring_commit(struct setpoint_ring *ring, const struct chunk *chunk, uint32_t now);

#endif
