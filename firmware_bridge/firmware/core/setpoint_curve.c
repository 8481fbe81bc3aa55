#include "setpoint_curve.h"

struct setpoint_curve setpoint_curve_through(float here, float slope, float next, float after)
{
    const float way = next - here;
    const float end_slope = 0.5f * (after - here);
    const struct setpoint_curve curve = {
        .here = here,
        .slope = slope,
        .bend = 3.0f * way - 2.0f * slope - end_slope,
        .twist = slope + end_slope - 2.0f * way,
        .end_slope = end_slope,
    };
    return curve;
}

float setpoint_curve_at(const struct setpoint_curve *curve, float s)
{
    return curve->here + s * (curve->slope + s * (curve->bend + s * curve->twist));
}

float setpoint_curve_velocity(const struct setpoint_curve *curve, float s)
{
    return curve->slope + s * (2.0f * curve->bend + 3.0f * s * curve->twist);
}
