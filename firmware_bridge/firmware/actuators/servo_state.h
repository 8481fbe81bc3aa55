/* What is known of each servo, from its answers; and of each joint, from its servos. */
#ifndef SERVO_STATE_H
#define SERVO_STATE_H

#include "joint_table.h"
#include "measurement.h"
#include "servo_protocol.h"

struct servo_state {
    struct joint_measurement measured; /* as if this servo were the only one of its joint */
    bool alert;                        /* at the last answer */
    bool had_torque;                   /* at an answer since the torque was last switched */
    bool is_identified;
    bool answers_together;
    uint8_t silent; /* requests in a row without an answer, as far as servo_buses.c counts */
    bool answered;  /* the last request */
};

/* Before the first answer. */
void servo_state_init(struct servo_state *state);

/* Makes what is known one servo step older. */
void servo_state_age(struct servo_state *state);

/* Takes in an answer. Torque that the servo had, and has no more although it was not to be switched off
 * (`torque_wanted`), is a restart. */
void servo_state_take(struct servo_state *state, const struct servo *servo, const struct servo_reading *reading,
                      bool torque_wanted);

/* The servo's torque is switched, either way: what it had before does not count any more. */
void servo_state_switch(struct servo_state *state);

/* Combines the first `count` servos of the table into its joints; `assumed` are the positions of joints that were never
 * measured. A joint has torque where every one of its servos has. */
void servo_state_combine(const struct joint_table *table, const struct servo_state *states, uint8_t count,
                         const float *assumed, struct joint_measurement *measured);

#endif
