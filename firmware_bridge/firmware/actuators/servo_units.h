/* What positions are in the units of servos. For any position, the result is within the servo's range. */
#ifndef SERVO_UNITS_H
#define SERVO_UNITS_H

#include "joint_table.h"

/* Width of a hobby servo's pulse: the joint's range is 1000 to 2000 us. */
uint32_t servo_pulse_us(const struct joint *joint, float position);

/* Goal of a Dynamixel in 4096ths of a turn: an angle counts from 2048, the range of any other unit is the half turn
 * from 1024 to 3072. */
uint32_t dynamixel_goal(const struct joint *joint, float position);

#endif
