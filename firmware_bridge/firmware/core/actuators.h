/* Where the command of each servo step goes, and where measurements come from. One back end is linked into an image:
 * actuators/NAME.c with `make ACTUATORS=NAME`.
 *
 *   simulated  no output: the joints are assumed at their commanded positions
 *   pwm_servo  hobby servos, a pulse of 1 to 2 ms per joint (boards with board_pwm_write); nothing is measured
 *   dynamixel  buses of Dynamixel servos, protocol 2.0 (boards with board_bus_write)
 *   feetech    buses of Feetech STS servos
 *
 * All three are called by the servo interrupt, in this order within a step, and never wait. */
#ifndef ACTUATORS_H
#define ACTUATORS_H

#include "joint_table.h"
#include "measurement.h"
#include "motion_limiter.h"

/* Before the first servo step. Does not change the torque of a servo: after a reset of the board the arm must not fall. */
void actuators_start(const struct joint_table *table);

/* Takes in what the servos have answered since the last step; ages what was not measured anew. Returns how many packets
 * were damaged or did not come. */
uint32_t actuators_measure(const struct joint_table *table, struct joint_measurement *measured);

/* What the servos are to do. Torque that goes on finds the goal already set. */
enum torque { TORQUE_UNCHANGED, TORQUE_OFF, TORQUE_ON };

/* Sends the position of every joint after a servo step, and asks for the next measurement. */
void actuators_command(const struct joint_table *table, const struct joint_motion *motion, enum torque torque);

#endif
