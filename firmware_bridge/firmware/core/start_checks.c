#include "start_checks.h"

#include "guards.h"

/* A joint may rest so far outside its limits, as part of its range: a gripper that was pressed shut. */
static const float OUTSIDE = 0.02f;

/* A joint without a following error has this one for its first setpoint, as part of its range. */
static const float TOLERANCE = 0.1f;

static float range_of(const struct joint *joint)
{
    return joint->maximum - joint->minimum;
}

enum link_command_result start_check_joints(const struct joint_table *table,
                                            const struct joint_measurement *measured, uint8_t *joint)
{
    if (!guards_is_fresh(table, measured, joint)) {
        return LINK_COMMAND_RESULT_NOT_MEASURED;
    }
    for (uint8_t i = 0; i < table->count; i++) {
        const struct joint *limits = &table->joints[i];
        const float margin = OUTSIDE * range_of(limits);
        const float position = measured[i].position;
        if (!(position >= limits->minimum - margin && position <= limits->maximum + margin)) {
            *joint = i;
            return LINK_COMMAND_RESULT_OUTSIDE_LIMITS;
        }
    }
    *joint = LINK_NO_JOINT;
    return LINK_COMMAND_RESULT_OK;
}

/* How far a joint comes from rest within `seconds`: a / 2 * t^2 until it has its velocity v, then v * t - v^2 / (2 a). */
static float farthest(const struct joint *joint, float seconds)
{
    const float speeding_up = joint->velocity / joint->acceleration;
    if (seconds < speeding_up) {
        return 0.5f * joint->acceleration * seconds * seconds;
    }
    return joint->velocity * (seconds - 0.5f * speeding_up);
}

uint8_t start_check_reach(const struct joint_table *table, const struct joint_measurement *measured,
                          const struct chunk *chunk, uint32_t now)
{
    const int32_t past = wrapped_difference(now, chunk->first_tick) + 1;
    const uint8_t step = past > 0 ? (uint8_t)past : 0u;
    if (step >= chunk->steps) {
        return LINK_NO_JOINT; /* it is late, and refused as that */
    }
    const float seconds = (float)(chunk->first_tick + step - now) / (float)table->control_hz;
    for (uint8_t i = 0; i < table->count; i++) {
        const struct joint *joint = &table->joints[i];
        const float tolerance = joint->following_error > 0.0f ? joint->following_error : TOLERANCE * range_of(joint);
        const float way = (float)chunk->counts[step][i] * joint->resolution - measured[i].position;
        const float reach = farthest(joint, seconds) + tolerance;
        if (way > reach || way < -reach) {
            return i;
        }
    }
    return LINK_NO_JOINT;
}
