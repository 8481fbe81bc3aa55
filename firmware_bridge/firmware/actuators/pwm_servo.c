/* Hobby servos: joint k on PWM output k of the board. */
#include "actuators.h"
#include "board.h"
#include "servo_units.h"

void actuators_start(const struct joint_table *table)
{
    board_pwm_start(table->count);
}

void actuators_command(const struct joint_table *table, const struct joint_motion *motion)
{
    for (uint8_t i = 0; i < table->count; i++) {
        board_pwm_write(i, servo_pulse_us(&table->joints[i], motion[i].position));
    }
}
