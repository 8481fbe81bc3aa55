/* Keeps one joint within its position, velocity and acceleration limits, for any targets.
 *
 * Works per servo step: velocities are displacements per step, accelerations changes of them per step. Whatever the
 * sequence of targets, after each step |velocity| <= max_step, it changed by at most max_change, the position is
 * inside [minimum, maximum], and the joint can still stop inside (all but the position up to float32 rounding).
 *
 * Stopping from velocity u in steps that shrink by a = max_change takes the distance D = u + (u - a) + (u - 2a) + ...
 * Solved for u with d = D / a: m = floor((sqrt(8 d + 1) - 1) / 2), u = a (d + m (m + 1) / 2) / (m + 1), the largest
 * velocity that may be chosen now if D is left. The same function slows the joint down ahead of its target. */
#ifndef MOTION_LIMITER_H
#define MOTION_LIMITER_H

#include "joint_table.h"
#include "serial_link.h"

struct motion_limits {
    float minimum;
    float maximum;
    float max_step;
    float max_change;
};

struct joint_motion {
    float position;
    float velocity; /* displacement of the last step */
};

/* Limits of `joint` at `servo_hz` steps per second. */
struct motion_limits motion_limits_of(const struct joint *joint, float servo_hz);

/* The position, or the nearer of the two limits. */
float motion_inside(const struct motion_limits *limits, float position);

/* A target: where it is at this step, how far it moves in the next, and by how much that way changes per step. */
struct motion_target {
    float position;
    float velocity;
    float change;
};

/* Moves one step towards `target`. Returns bits of LINK_TICK_FLAG; none where the target was reached exactly, which it
 * is whenever the limits allow. A target that is not a number slows the joint down.
 *
 * `corner`, or NULL, is a second target, the straight line after the next setpoint, extended backwards: the joint
 * follows the first target and slows down in time so that it does not overshoot the second. */
uint8_t motion_track(const struct motion_limits *limits, struct joint_motion *motion,
                     const struct motion_target *target, const struct motion_target *corner);

/* Moves one step of slowing down to rest, as fast as the limits allow. */
void motion_stop(const struct motion_limits *limits, struct joint_motion *motion);

#endif
