/* Hobby servos: joint k on PWM output k of the board. Nothing is measured; a servo has torque while it gets pulses. */
#include "actuators.h"
#include "board.h"
#include "servo_units.h"

static float commanded[LINK_MAX_JOINTS];

void actuators_start(const struct joint_table *table)
{
    for (uint8_t i = 0; i < table->count; i++) {
        commanded[i] = table->joints[i].home;
    }
    board_pwm_start(table->count);
}

uint32_t actuators_measure(const struct joint_table *table, struct joint_measurement *measured)
{
    for (uint8_t i = 0; i < table->count; i++) {
        measured[i] = (struct joint_measurement){.position = commanded[i]};
    }
    return 0;
}

void actuators_command(const struct joint_table *table, const struct joint_motion *motion, enum torque torque)
{
    (void)torque;
    for (uint8_t i = 0; i < table->count; i++) {
        commanded[i] = motion[i].position;
        board_pwm_write(i, servo_pulse_us(&table->joints[i], motion[i].position));
    }
}
