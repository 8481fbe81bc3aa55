#include "chunk_assembly.h"

#include <string.h>

enum { MAX_FRAGMENTS = 32 }; /* bits of ChunkReply.received */

void chunk_assembly_reset(struct chunk_assembly *assembly)
{
    memset(assembly, 0, sizeof *assembly);
}

static bool has_valid_shape(const struct link_fragment *fragment, uint8_t joints)
{
    return fragment->chunk_id != 0 && fragment->joints == joints && fragment->step_count >= 1 &&
           fragment->step_count <= LINK_MAX_HORIZON && fragment->fragment_count >= 1 &&
           fragment->fragment_count <= MAX_FRAGMENTS && fragment->fragment_index < fragment->fragment_count &&
           fragment->steps >= 1 && fragment->first_step + fragment->steps <= fragment->step_count;
}

static bool belongs(const struct chunk_assembly *assembly, const struct link_fragment *fragment)
{
    return assembly->chunk.first_tick == fragment->first_tick &&
           assembly->chunk.observed_tick == fragment->observed_tick &&
           assembly->chunk.steps == fragment->step_count && assembly->fragment_count == fragment->fragment_count;
}

static uint64_t ones(uint32_t count)
{
    return count >= 64 ? UINT64_MAX : (UINT64_C(1) << count) - 1u;
}

static void begin(struct chunk_assembly *assembly, const struct link_fragment *fragment)
{
    assembly->chunk.id = fragment->chunk_id;
    assembly->chunk.first_tick = fragment->first_tick;
    assembly->chunk.observed_tick = fragment->observed_tick;
    assembly->chunk.steps = fragment->step_count;
    assembly->chunk.joints = fragment->joints;
    assembly->fragment_count = fragment->fragment_count;
    assembly->received = 0;
    assembly->steps_present = 0;
    assembly->expected = 0;
    assembly->unacknowledged = 0;
    assembly->open = true;
    assembly->result = LINK_CHUNK_RESULT_INCOMPLETE;
    assembly->joint = LINK_NO_JOINT;
}

static void store(struct chunk_assembly *assembly, const struct link_fragment *fragment)
{
    const size_t row = fragment->joints;
    for (size_t step = 0; step < fragment->steps; step++) {
        memcpy(assembly->chunk.counts[fragment->first_step + step], fragment->values + step * row,
               row * sizeof fragment->values[0]);
    }
    assembly->received |= 1u << fragment->fragment_index;
    assembly->steps_present |= ones(fragment->steps) << fragment->first_step;
}

static void fill_reply(struct chunk_assembly *assembly, uint32_t now, struct link_chunk_reply *reply)
{
    assembly->unacknowledged = 0;
    reply->chunk_id = assembly->chunk.id;
    reply->received = assembly->received;
    reply->tick = assembly->open ? now : assembly->decided_tick;
    reply->result = (uint8_t)assembly->result;
    reply->joint = assembly->joint;
}

static enum assembly_event refuse(const struct link_fragment *fragment, enum link_chunk_result result,
                                  uint32_t now, struct link_chunk_reply *reply)
{
    reply->chunk_id = fragment->chunk_id;
    reply->received = 0;
    reply->tick = now;
    reply->result = (uint8_t)result;
    reply->joint = LINK_NO_JOINT;
    return ASSEMBLY_REPLY;
}

static enum assembly_event after_store(struct chunk_assembly *assembly, const struct link_fragment *fragment,
                                       uint32_t now, struct link_chunk_reply *reply)
{
    if (assembly->received == ones(assembly->fragment_count)) {
        if (assembly->steps_present == ones(assembly->chunk.steps)) {
            return ASSEMBLY_COMPLETE;
        }
        chunk_assembly_finish(assembly, LINK_CHUNK_RESULT_WRONG_SHAPE, LINK_NO_JOINT, now, reply);
        return ASSEMBLY_REPLY;
    }
    const bool skipped = fragment->fragment_index > assembly->expected;
    const bool last = fragment->fragment_index + 1 == fragment->fragment_count;
    if (fragment->fragment_index >= assembly->expected) {
        assembly->expected = (uint8_t)(fragment->fragment_index + 1u);
    }
    assembly->unacknowledged++;
    if (skipped || last || assembly->unacknowledged >= CHUNK_ACKNOWLEDGED_TOGETHER) {
        fill_reply(assembly, now, reply);
        return ASSEMBLY_REPLY;
    }
    return ASSEMBLY_QUIET;
}

enum assembly_event chunk_assembly_add(struct chunk_assembly *assembly, const struct link_fragment *fragment,
                                       uint8_t joints, uint32_t now, struct link_chunk_reply *reply)
{
    if (!has_valid_shape(fragment, joints)) {
        return refuse(fragment, LINK_CHUNK_RESULT_WRONG_SHAPE, now, reply);
    }
    const int32_t newer = wrapped_difference(fragment->chunk_id, assembly->chunk.id);
    if (assembly->chunk.id != 0 && newer < 0) {
        return refuse(fragment, LINK_CHUNK_RESULT_STALE, now, reply);
    }
    if (assembly->chunk.id == 0 || newer > 0) {
        begin(assembly, fragment);
    } else if (!belongs(assembly, fragment)) {
        return refuse(fragment, LINK_CHUNK_RESULT_WRONG_SHAPE, now, reply);
    }
    assembly->last_tick = now;
    assembly->reminded = false;
    if (!assembly->open || (assembly->received >> fragment->fragment_index & 1u) != 0) {
        fill_reply(assembly, now, reply);
        return ASSEMBLY_REPLY;
    }
    store(assembly, fragment);
    return after_store(assembly, fragment, now, reply);
}

void chunk_assembly_finish(struct chunk_assembly *assembly, enum link_chunk_result result, uint8_t joint,
                           uint32_t tick, struct link_chunk_reply *reply)
{
    assembly->open = false;
    assembly->decided_tick = tick;
    assembly->result = result;
    assembly->joint = joint;
    fill_reply(assembly, tick, reply);
}

bool chunk_assembly_remind(struct chunk_assembly *assembly, uint32_t now, struct link_chunk_reply *reply)
{
    if (!assembly->open || assembly->reminded ||
        wrapped_difference(now, assembly->last_tick) < CHUNK_QUIET_TICKS) {
        return false;
    }
    assembly->reminded = true;
    fill_reply(assembly, now, reply);
    return true;
}
