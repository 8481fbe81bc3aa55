#include "setpoint_curve.h"

static float magnitude(float value)
{
    return value < 0.0f ? -value : value;
}

/* The slope between two displacements of opposite sign is 0, of the same sign the smaller one. */
static float slower_of(float way, float next_way)
{
    if ((way < 0.0f) != (next_way < 0.0f)) {
        return 0.0f;
    }
    return magnitude(way) < magnitude(next_way) ? way : next_way;
}

/* Whether the velocity never changes faster than by `max_turn` per tick; the change is linear in s. */
static bool can_be_followed(const struct setpoint_curve *curve, float max_turn)
{
    const float at_start = 2.0f * curve->bend;
    const float at_end = at_start + 6.0f * curve->twist;
    return magnitude(at_start) <= max_turn && magnitude(at_end) <= max_turn;
}

struct setpoint_curve setpoint_curve_through(float here, float slope, float next, float after, float max_turn)
{
    const float way = next - here;
    const float end_slope = 0.5f * (after - here);
    const struct setpoint_curve curve = {
        .here = here,
        .slope = slope,
        .bend = 3.0f * way - 2.0f * slope - end_slope,
        .twist = slope + end_slope - 2.0f * way,
        .next = next,
        .end_slope = end_slope,
    };
    if (can_be_followed(&curve, max_turn)) {
        return curve;
    }
    const struct setpoint_curve corner = {
        .here = here,
        .slope = way,
        .next = next,
        .end_slope = slower_of(way, after - next),
        .is_corner = true,
    };
    return corner;
}

float setpoint_curve_at(const struct setpoint_curve *curve, float s)
{
    return curve->here + s * (curve->slope + s * (curve->bend + s * curve->twist));
}

float setpoint_curve_velocity(const struct setpoint_curve *curve, float s)
{
    return curve->slope + s * (2.0f * curve->bend + 3.0f * s * curve->twist);
}
