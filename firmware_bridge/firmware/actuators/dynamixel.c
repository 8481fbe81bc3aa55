/* Dynamixel servos (X series): joint k is servo k + 1. All goals of a step go out in one packet. */
#include "actuators.h"
#include "board.h"
#include "dynamixel_protocol.h"
#include "servo_units.h"

enum { BUS_BAUD = 1000000, GOAL_POSITION = 116 };

void actuators_start(const struct joint_table *table)
{
    (void)table;
    board_bus_start(BUS_BAUD);
}

/* If the bus is still sending the last step, this step is skipped; the next one contains newer goals. */
void actuators_command(const struct joint_table *table, const struct joint_motion *motion)
{
    uint32_t goals[LINK_MAX_JOINTS];
    uint8_t packet[DYNAMIXEL_LONGEST];
    for (uint8_t i = 0; i < table->count; i++) {
        goals[i] = dynamixel_goal(&table->joints[i], motion[i].position);
    }
    (void)board_bus_write(packet, dynamixel_sync_write(GOAL_POSITION, goals, table->count, packet));
}
