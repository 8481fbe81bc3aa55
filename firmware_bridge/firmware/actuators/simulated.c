#include "actuators.h"

void actuators_start(const struct joint_table *table)
{
    (void)table;
}

void actuators_command(const struct joint_table *table, const struct joint_motion *motion)
{
    (void)table;
    (void)motion;
}
