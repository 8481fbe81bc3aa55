#include "servo_units.h"

static const float MOST_COUNTS = 1048575.0f; /* of Dynamixel's extended position mode */

static float share_of_range(const struct joint *joint, float position)
{
    return (position - joint->minimum) / (joint->maximum - joint->minimum);
}

/* `value`, or the nearer of the two limits; the lower one where it is no number. */
static float within(float value, float low, float high)
{
    if (!(value > low)) {
        return low;
    }
    return value < high ? value : high;
}

uint32_t servo_pulse_us(const struct joint *joint, float position)
{
    const float pulse = 1000.0f + 1000.0f * share_of_range(joint, position);
    return (uint32_t)(within(pulse, 1000.0f, 2000.0f) + 0.5f);
}

int32_t servo_count_at(const struct servo *servo, float position)
{
    const float count = within(servo->zero + servo->per_unit * position, -MOST_COUNTS, MOST_COUNTS);
    return (int32_t)(count < 0.0f ? count - 0.5f : count + 0.5f);
}

float servo_position_at(const struct servo *servo, int32_t count)
{
    return ((float)count - servo->zero) / servo->per_unit;
}

float servo_current_at(const struct servo *servo, int32_t count)
{
    const float current = (float)count * servo->current_unit;
    return servo->per_unit < 0.0f ? -current : current;
}
