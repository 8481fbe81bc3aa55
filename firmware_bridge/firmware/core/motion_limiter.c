#include "motion_limiter.h"

#include <math.h>

static const float FARTHEST = 1.6e7f; /* in units of the change; farther is treated as this far; below 2^24 */

enum { MOST_STEPS = 4096 }; /* the highest bit of the steps that stopping within FARTHEST takes */

/* Stopping is planned with this part of max_change, which leaves room for the rounding of float32. */
static const float PLANNED = 0.9995f;

/* The joint does not brake together with a target that slows down by more than this part of max_change. */
static const float MOST_SLOWING = 0.9f;

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

float motion_inside(const struct motion_limits *limits, float position)
{
    return clamp(position, limits->minimum, limits->maximum);
}

static float magnitude(float value)
{
    return value < 0.0f ? -value : value;
}

/* The largest m with m (m + 1) / 2 <= `way`, found bit by bit. */
static uint32_t steps_within(uint32_t way)
{
    uint32_t m = 0;
    for (uint32_t bit = MOST_STEPS; bit != 0; bit >>= 1) {
        const uint32_t tried = m + bit;
        if (tried * (tried + 1u) / 2u <= way) {
            m = tried;
        }
    }
    return m;
}

/* The largest velocity from which the joint can still stop within `distance` (at least 0), losing `change` per step. */
static float stoppable_velocity(float distance, float change)
{
    const float planned = PLANNED * change;
    const float way = clamp(distance / planned, 0.0f, FARTHEST);
    const uint32_t m = steps_within((uint32_t)way);
    const float triangle = (float)(m * (m + 1u) / 2u);
    return planned * ((way + triangle) / (float)(m + 1u));
}

static bool is_no_number(const struct motion_target *target)
{
    return isnan(target->position) || isnan(target->velocity) || isnan(target->change);
}

/* Where a target stood one step ago, seen from the joint. */
static float behind(const struct joint_motion *motion, const struct motion_target *target)
{
    return target->position - motion->position - target->velocity;
}

/* The velocity that closes the gap to a target without overshoot. While the target slows down, the joint has to slow
 * down with it; only the remaining change of velocity is available to close the gap. */
static float approach(const struct motion_limits *limits, float gap, const struct motion_target *target)
{
    const float slowing = gap < 0.0f ? target->change : -target->change;
    const float left = limits->max_change - clamp(slowing, 0.0f, MOST_SLOWING * limits->max_change);
    const float closing = stoppable_velocity(magnitude(gap), left);
    return target->velocity + (gap < 0.0f ? -closing : closing);
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
    const float room = stoppable_velocity(ahead, change);
    flags |= limit(step, -room, room, LINK_TICK_FLAG_POSITION_LIMITED);
    return (uint8_t)flags;
}

/* The target as far as the joint may follow it: at rest at a position limit where it lies beyond. */
static struct motion_target within(const struct motion_limits *limits, const struct motion_target *target)
{
    const float inside = clamp(target->position, limits->minimum, limits->maximum);
    const bool outside = inside < target->position || inside > target->position;
    const struct motion_target aim = {
        .position = inside,
        .velocity = outside ? 0.0f : clamp(target->velocity, -limits->max_step, limits->max_step),
        .change = outside ? 0.0f : target->change,
    };
    return aim;
}

/* The step, or where the joint could not stop ahead of the corner after it, the largest with which it can. */
static float stop_ahead_of(const struct motion_limits *limits, const struct joint_motion *motion,
                           const struct motion_target *corner, float step)
{
    const float closing = step - corner->velocity;
    const float gap = behind(motion, corner);
    if ((closing < 0.0f) != (gap < 0.0f) || magnitude(closing) <= limits->max_change) {
        return step;
    }
    const float most = stoppable_velocity(magnitude(gap), limits->max_change);
    return corner->velocity + clamp(closing, -most, most);
}

uint8_t motion_track(const struct motion_limits *limits, struct joint_motion *motion,
                     const struct motion_target *target, const struct motion_target *corner)
{
    if (is_no_number(target) || (corner != NULL && is_no_number(corner))) {
        motion_stop(limits, motion);
        return LINK_TICK_FLAG_POSITION_LIMITED;
    }
    const struct motion_target aim = within(limits, target);
    const bool outside = aim.position < target->position || aim.position > target->position;
    const float gap = aim.position - motion->position;
    float step = gap;
    if (magnitude(gap - aim.velocity) > limits->max_change) {
        step = approach(limits, behind(motion, &aim), &aim);
    }
    if (corner != NULL) {
        const struct motion_target turn = within(limits, corner);
        step = stop_ahead_of(limits, motion, &turn, step);
    }
    const bool held_back = step < gap || step > gap;
    unsigned flags = outside ? LINK_TICK_FLAG_POSITION_LIMITED : 0u;
    flags |= held_back ? LINK_TICK_FLAG_ACCELERATION_LIMITED : 0u;
    const uint8_t limited = limit_step(limits, motion, &step);
    if (held_back || limited != 0) {
        move(limits, motion, step);
        return (uint8_t)(flags | limited);
    }
    /* Not position + gap, which float32 may round to a neighbour of the target. */
    motion->velocity = gap;
    motion->position = aim.position;
    return (uint8_t)flags;
}

void motion_stop(const struct motion_limits *limits, struct joint_motion *motion)
{
    const float slower = magnitude(motion->velocity) - limits->max_change;
    const float step = slower > 0.0f ? slower : 0.0f;
    move(limits, motion, motion->velocity < 0.0f ? -step : step);
}
