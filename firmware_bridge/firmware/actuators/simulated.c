#include "actuators.h"

static const struct joint_motion *commanded;

void actuators_start(const struct joint_table *table)
{
    (void)table;
}

uint32_t actuators_measure(const struct joint_table *table, struct joint_measurement *measured)
{
    for (uint8_t i = 0; i < table->count && commanded != NULL; i++) {
        measured[i] = (struct joint_measurement){.position = commanded[i].position};
    }
    return 0;
}

void actuators_command(const struct joint_table *table, const struct joint_motion *motion, enum torque torque)
{
    (void)table;
    (void)torque;
    commanded = motion;
}
