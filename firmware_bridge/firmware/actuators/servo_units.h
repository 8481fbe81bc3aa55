/* What positions are in the units of servos, and back. */
#ifndef SERVO_UNITS_H
#define SERVO_UNITS_H

#include "joint_table.h"

/* Width of a hobby servo's pulse, for any position within 1000 to 2000 us: the joint's range. */
uint32_t servo_pulse_us(const struct joint *joint, float position);

/* Goal of a servo on a bus, the nearest count; for any position within 256 turns of 4096 counts. */
int32_t servo_count_at(const struct servo *servo, float position);

/* Position of the joint at a count of its servo. */
float servo_position_at(const struct servo *servo, int32_t count);

/* Current in ampere of a count of the servo's register; positive where it drives to greater positions of the joint. */
float servo_current_at(const struct servo *servo, int32_t count);

#endif
