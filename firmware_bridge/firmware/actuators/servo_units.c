#include "servo_units.h"

#include <string.h>

static const float COUNTS_PER_RADIAN = 651.8986469f; /* 4096 / 2 pi */

/* `value` rounded, or the nearer of the two limits. */
static uint32_t rounded_within(float value, uint32_t low, uint32_t high)
{
    if (!(value > (float)low)) {
        return low;
    }
    return value < (float)high ? (uint32_t)(value + 0.5f) : high;
}

static float share_of_range(const struct joint *joint, float position)
{
    return (position - joint->minimum) / (joint->maximum - joint->minimum);
}

uint32_t servo_pulse_us(const struct joint *joint, float position)
{
    return rounded_within(1000.0f + 1000.0f * share_of_range(joint, position), 1000u, 2000u);
}

uint32_t dynamixel_goal(const struct joint *joint, float position)
{
    if (strcmp(joint->unit, "rad") == 0) {
        return rounded_within(2048.0f + position * COUNTS_PER_RADIAN, 0u, 4095u);
    }
    return rounded_within(1024.0f + 2048.0f * share_of_range(joint, position), 1024u, 3072u);
}
