#include "setpoint_ring.h"

#include <string.h>

void setpoint_ring_clear(struct setpoint_ring *ring)
{
    for (size_t i = 0; i < LINK_RING_DEPTH; i++) {
        ring->entries[i].chunk_id = 0;
    }
    ring->newest_chunk = 0;
}

const struct setpoint *setpoint_ring_at(const struct setpoint_ring *ring, uint32_t tick)
{
    const struct setpoint *entry = &ring->entries[tick % LINK_RING_DEPTH];
    return entry->chunk_id != 0 && entry->tick == tick ? entry : NULL;
}

uint16_t setpoint_ring_level(const struct setpoint_ring *ring, uint32_t now)
{
    uint16_t level = 0;
    for (size_t i = 0; i < LINK_RING_DEPTH; i++) {
        const struct setpoint *entry = &ring->entries[i];
        if (entry->chunk_id != 0 && wrapped_difference(entry->tick, now) > 0) {
            level++;
        }
    }
    return level;
}

static void forget_after(struct setpoint_ring *ring, uint32_t last_tick)
{
    for (size_t i = 0; i < LINK_RING_DEPTH; i++) {
        if (wrapped_difference(ring->entries[i].tick, last_tick) > 0) {
            ring->entries[i].chunk_id = 0;
        }
    }
}

static void enter(struct setpoint_ring *ring, const struct chunk *chunk, uint8_t step)
{
    const uint32_t tick = chunk->first_tick + step;
    struct setpoint *entry = &ring->entries[tick % LINK_RING_DEPTH];
    entry->tick = tick;
    entry->chunk_id = chunk->id;
    entry->observed_tick = chunk->observed_tick;
    memcpy(entry->counts, chunk->counts[step], chunk->joints * sizeof entry->counts[0]);
}

enum link_chunk_result setpoint_ring_commit(struct setpoint_ring *ring, const struct chunk *chunk, uint32_t now)
{
    const uint32_t last_tick = chunk->first_tick + chunk->steps - 1u;
    const int32_t ahead = wrapped_difference(last_tick, now);
    if (ring->newest_chunk != 0 && wrapped_difference(chunk->id, ring->newest_chunk) <= 0) {
        return LINK_CHUNK_RESULT_STALE;
    }
    if (ahead < SETPOINT_GUARD) {
        return LINK_CHUNK_RESULT_LATE;
    }
    if (ahead >= (int32_t)LINK_RING_DEPTH) {
        return LINK_CHUNK_RESULT_TOO_FAR_AHEAD;
    }
    forget_after(ring, last_tick);
    for (uint8_t step = 0; step < chunk->steps; step++) {
        if (wrapped_difference(chunk->first_tick + step, now) >= SETPOINT_GUARD) {
            enter(ring, chunk, step);
        }
    }
    ring->newest_chunk = chunk->id;
    return LINK_CHUNK_RESULT_ACCEPTED;
}
