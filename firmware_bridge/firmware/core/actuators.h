/* Where the command of each servo step goes. One back end is linked into an image: actuators/NAME.c with
 * `make ACTUATORS=NAME`.
 *
 *   simulated  no output: the joints are assumed at their commanded positions
 *   pwm_servo  hobby servos, a pulse of 1 to 2 ms per joint (boards with board_pwm_write)
 *   dynamixel  a bus of Dynamixel servos, protocol 2.0 (boards with board_bus_write)
 *
 * None of them enables the torque of servos: after a reset the firmware assumes every joint at its home position, so
 * move the arm there before the servos get power. */
#ifndef ACTUATORS_H
#define ACTUATORS_H

#include "joint_table.h"
#include "motion_limiter.h"

/* Before the first servo step. */
void actuators_start(const struct joint_table *table);

/* Takes the position of every joint after a servo step. Called by the servo interrupt; never waits. */
void actuators_command(const struct joint_table *table, const struct joint_motion *motion);

#endif
