#include "motion_limiter.h"

#include <math.h>

static const float FARTHEST = 1.6e7f; /* in units of the change; farther is treated as this far; below 2^24 */

enum { MOST_STEPS = 4096 }; /* a power of two above half of the steps that may be looked ahead */

/* Stopping is planned with this part of max_change, which leaves room for the rounding of float32. */
static const float PLANNED = 0.9995f;

struct motion_limits motion_limits_of(const struct joint *joint, float servo_hz)
{
    const struct motion_limits limits = {
        .minimum = joint->minimum,
        .maximum = joint->maximum,
        .max_step = joint->velocity / servo_hz,
        .max_change = joint->acceleration / (servo_hz * servo_hz),
    };
    return limits;
}

static float clamp(float value, float low, float high)
{
    if (value < low) {
        return low;
    }
    return value > high ? high : value;
}

static float magnitude(float value)
{
    return value < 0.0f ? -value : value;
}

/* The largest m up to `enough` with m (m + 1) / 2 <= `way`, found bit by bit. */
static uint32_t steps_within(uint32_t way, uint32_t enough)
{
    uint32_t m = 0;
    for (uint32_t bit = MOST_STEPS; bit != 0; bit >>= 1) {
        const uint32_t tried = m + bit;
        if (tried <= enough && tried * (tried + 1u) / 2u <= way) {
            m = tried;
        }
    }
    return m;
}

/* The largest velocity from which the joint can still stop within `distance` (at least 0). */
static float stoppable_velocity(const struct motion_limits *limits, float distance)
{
    const float change = PLANNED * limits->max_change;
    const float way = clamp(distance / change, 0.0f, FARTHEST);
    /* No velocity above twice the limit is ever asked for, so there is no need to look further. */
    const uint32_t enough = (uint32_t)(2.0f * limits->max_step / change) + 2u;
    const uint32_t m = steps_within((uint32_t)way, enough);
    const float triangle = (float)(m * (m + 1u) / 2u);
    return change * ((way + triangle) / (float)(m + 1u));
}

/* The velocity that closes `gap`, seen from a target that moves by `target_velocity`, without running past it. */
static float approach(const struct motion_limits *limits, float gap, float target_velocity)
{
    const float behind = gap - target_velocity;
    const float closing = stoppable_velocity(limits, magnitude(behind));
    return target_velocity + (behind < 0.0f ? -closing : closing);
}

static void move(const struct motion_limits *limits, struct joint_motion *motion, float step)
{
    const float position = clamp(motion->position + step, limits->minimum, limits->maximum);
    motion->velocity = position - motion->position;
    motion->position = position;
}

/* Clamps `*step` and returns `flag` where that changed it. */
static uint8_t limit(float *step, float low, float high, unsigned flag)
{
    const float wanted = *step;
    *step = clamp(wanted, low, high);
    return *step < wanted || *step > wanted ? (uint8_t)flag : 0u;
}

static uint8_t limit_step(const struct motion_limits *limits, const struct joint_motion *motion, float *step)
{
    const float change = limits->max_change;
    unsigned flags = limit(step, -limits->max_step, limits->max_step, LINK_TICK_FLAG_VELOCITY_LIMITED);
    flags |= limit(step, motion->velocity - change, motion->velocity + change, LINK_TICK_FLAG_ACCELERATION_LIMITED);
    const float ahead = *step < 0.0f ? motion->position - limits->minimum : limits->maximum - motion->position;
    const float room = stoppable_velocity(limits, ahead);
    flags |= limit(step, -room, room, LINK_TICK_FLAG_POSITION_LIMITED);
    return (uint8_t)flags;
}

uint8_t motion_track(const struct motion_limits *limits, struct joint_motion *motion, float target,
                     float target_velocity)
{
    if (isnan(target) || isnan(target_velocity)) {
        motion_stop(limits, motion);
        return LINK_TICK_FLAG_POSITION_LIMITED;
    }
    const float inside = clamp(target, limits->minimum, limits->maximum);
    const bool outside = inside < target || inside > target;
    const float ahead = outside ? 0.0f : clamp(target_velocity, -limits->max_step, limits->max_step);
    const float gap = inside - motion->position;
    unsigned flags = outside ? LINK_TICK_FLAG_POSITION_LIMITED : 0u;
    float step = gap;
    if (magnitude(gap - ahead) > limits->max_change) {
        step = approach(limits, gap, ahead);
        flags |= LINK_TICK_FLAG_ACCELERATION_LIMITED;
    }
    const uint8_t limited = limit_step(limits, motion, &step);
    if (limited != 0 || step < gap || step > gap) {
        move(limits, motion, step);
        return (uint8_t)(flags | limited);
    }
    /* Not position + gap, which float32 may round to a neighbour of the target. */
    motion->velocity = gap;
    motion->position = inside;
    return (uint8_t)flags;
}

void motion_stop(const struct motion_limits *limits, struct joint_motion *motion)
{
    const float slower = magnitude(motion->velocity) - limits->max_change;
    const float step = slower > 0.0f ? slower : 0.0f;
    move(limits, motion, motion->velocity < 0.0f ? -step : step);
}
