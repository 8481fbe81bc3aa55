/* The curve of one joint from the setpoint of one tick to that of the next: a cubic that the servo steps follow.
 *
 * With the time s since the tick, in ticks (0 <= s < 1), u = next - here, and the slopes m0 and m1 at both ends, in
 * units per tick, the cubic Hermite polynomial is
 *
 *     target(s) = here + s (m0 + s ((3 u - 2 m0 - m1) + s (m0 + m1 - 2 u)))
 *
 * The slope at a setpoint is half the difference of the setpoints after and before it (Catmull-Rom): a constant
 * acceleration is reproduced exactly, and the curve passes through every setpoint in its tick. It leaves the range of
 * its two setpoints by at most (|m0| + |m1|) 4/27. Monotone slopes (Fritsch-Carlson) would not leave it, but need up
 * to 10/3 of the acceleration where a smooth motion changes direction.
 *
 * Where the velocity of that curve would change faster than the joint's can, the plan has a corner: straight on to the
 * next setpoint, and from there with the smaller of the two slopes, or 0 where the plan changes direction
 * (minmod). The joint follows the first line and does not overshoot the second, so it slows down before the corner.
 *
 * There is no delay. The curve looks ahead to the next setpoint, which no chunk may change any more (SETPOINT_GUARD),
 * and to the one after, of which only the slope at the end depends. That slope is kept as the first one of the next
 * curve, so that the velocity has no step even where a chunk replaced the plan in between. */
#ifndef SETPOINT_CURVE_H
#define SETPOINT_CURVE_H

#include <stdbool.h>

struct setpoint_curve {
    float here; /* target(0), exactly */
    float slope;
    float bend;
    float twist;
    float next; /* target(1) */
    float end_slope;
    bool is_corner;
};

/* The curve from `here` to `next`, starting with `slope`; `after` is the setpoint behind `next`, or extrapolates. In
 * a tick the joint's velocity can change by `max_turn`, in units per tick. */
struct setpoint_curve setpoint_curve_through(float here, float slope, float next, float after, float max_turn);

/* Where the target is at `s`, and how fast it moves there, in units per tick. */
float setpoint_curve_at(const struct setpoint_curve *curve, float s);
float setpoint_curve_velocity(const struct setpoint_curve *curve, float s);

#endif
