#include "servo_state.h"

#include "serial_link.h"
#include "servo_units.h"

void servo_state_init(struct servo_state *state)
{
    *state = (struct servo_state){.measured = {.age = MEASUREMENT_TOO_OLD}};
}

void servo_state_age(struct servo_state *state)
{
    uint8_t *age = &state->measured.age;
    *age = (uint8_t)(*age + (*age < MEASUREMENT_TOO_OLD));
}

static void set_flag(struct joint_measurement *measured, unsigned flag, bool on)
{
    measured->flags = (uint8_t)(on ? measured->flags | flag : measured->flags & ~flag);
}

static void take_motion(struct joint_measurement *measured, const struct servo *servo,
                        const struct servo_reading *reading)
{
    measured->position = servo_position_at(servo, reading->position);
    measured->current = servo_current_at(servo, reading->current);
    measured->age = 0;
    set_flag(measured, LINK_JOINT_FLAG_MEASURED, true);
}

static void take_torque(struct servo_state *state, bool on, bool wanted)
{
    if (state->had_torque && !on && wanted) {
        set_flag(&state->measured, LINK_JOINT_FLAG_RESTARTED, true);
    }
    state->had_torque = on;
    set_flag(&state->measured, LINK_JOINT_FLAG_TORQUE, on);
}

static void take_errors(struct joint_measurement *measured, uint8_t errors)
{
    const unsigned all =
        LINK_JOINT_FLAG_VOLTAGE | LINK_JOINT_FLAG_OVERHEATED | LINK_JOINT_FLAG_OVERLOADED | LINK_JOINT_FLAG_ENCODER;
    set_flag(measured, all, false);
    set_flag(measured, errors, true);
}

void servo_state_take(struct servo_state *state, const struct servo *servo, const struct servo_reading *reading,
                      bool torque_wanted)
{
    struct joint_measurement *measured = &state->measured;
    state->alert = reading->alert;
    if ((reading->told & SERVO_TOLD_MOTION) != 0) {
        take_motion(measured, servo, reading);
    }
    if ((reading->told & SERVO_TOLD_TORQUE) != 0) {
        take_torque(state, reading->torque, torque_wanted);
    }
    if ((reading->told & SERVO_TOLD_ERRORS) != 0) {
        take_errors(measured, reading->errors);
    }
    if ((reading->told & SERVO_TOLD_HEALTH) != 0) {
        measured->volts = 0.1f * (float)reading->tenth_volts;
        measured->temperature = reading->temperature;
    }
    if ((reading->told & SERVO_TOLD_IDENTITY) != 0) {
        state->is_identified = true;
        state->answers_together = reading->answers_together;
    }
}

void servo_state_switch(struct servo_state *state)
{
    state->had_torque = false;
    set_flag(&state->measured, LINK_JOINT_FLAG_RESTARTED, false);
}

static void add_to_joint(struct joint_measurement *joint, const struct servo *servo,
                         const struct joint_measurement *measured)
{
    const unsigned not_of_any = LINK_JOINT_FLAG_TORQUE | LINK_JOINT_FLAG_MEASURED;
    if (!servo->is_shadow && (measured->flags & LINK_JOINT_FLAG_MEASURED) != 0) {
        joint->position = measured->position;
        joint->current = measured->current;
        joint->age = measured->age;
        set_flag(joint, LINK_JOINT_FLAG_MEASURED, true);
    }
    set_flag(joint, measured->flags & ~not_of_any, true);
    joint->temperature = measured->temperature > joint->temperature ? measured->temperature : joint->temperature;
    const bool is_lowest = joint->volts <= 0.0f || measured->volts < joint->volts;
    joint->volts = measured->volts > 0.0f && is_lowest ? measured->volts : joint->volts;
}

void servo_state_combine(const struct joint_table *table, const struct servo_state *states, uint8_t count,
                         const float *assumed, struct joint_measurement *measured)
{
    uint32_t with_torque = 0;
    uint32_t without_torque = 0;
    for (uint8_t i = 0; i < table->count; i++) {
        measured[i] = (struct joint_measurement){.position = assumed[i], .age = MEASUREMENT_TOO_OLD};
    }
    for (uint8_t i = 0; i < count; i++) {
        const struct servo *servo = &table->servos[i];
        const bool on = (states[i].measured.flags & LINK_JOINT_FLAG_TORQUE) != 0;
        with_torque |= on ? 1u << servo->joint : 0u;
        without_torque |= on ? 0u : 1u << servo->joint;
        add_to_joint(&measured[servo->joint], servo, &states[i].measured);
    }
    for (uint8_t i = 0; i < table->count; i++) {
        set_flag(&measured[i], LINK_JOINT_FLAG_TORQUE, ((with_torque & ~without_torque) >> i & 1u) != 0);
    }
}
