/* The states of the arm and their transitions, independent of joints, frames and clocks.
 *
 * `safety_transitions` holds all transitions: docs/safety.md shows the same table, with a diagram, and
 * firmware_bridge/lockstep/model_check.py checks it. In every state but ARMED, RUNNING and STARVED the arm slows
 * down to rest within its limits and holds. */
#ifndef SAFETY_H
#define SAFETY_H

#include "serial_link.h"

enum { SAFETY_STATES = LINK_STATE_ESTOP + 1, SAFETY_NO_TRANSITION = 0xFF };

enum safety_event {
    SAFETY_EVENT_ARM,              /* command; a known host was heard, no fault is latched, joints lie within limits */
    SAFETY_EVENT_DISARM,           /* command */
    SAFETY_EVENT_CLEAR,            /* command; the arm is at rest and the e-stop pin released */
    SAFETY_EVENT_RELEASE,          /* command; the arm is at rest: its servos lose their torque */
    SAFETY_EVENT_ESTOP_COMMAND,    /* command */
    SAFETY_EVENT_ESTOP_PIN,        /* the contact is open */
    SAFETY_EVENT_SETPOINT,         /* one is due in this tick */
    SAFETY_EVENT_NO_SETPOINT,      /* none is due in this tick */
    SAFETY_EVENT_STARVATION,       /* SAFETY_STARVED_MS without a setpoint, and at rest */
    SAFETY_EVENT_HEARTBEAT,        /* SAFETY_HEARTBEAT_MS without a heartbeat of the host */
    SAFETY_EVENT_LIMIT_SATURATION, /* SAFETY_SATURATED_MS behind the setpoints, held back by limits */
    SAFETY_EVENT_TICK_OVERRUN,     /* the interrupt came more than SAFETY_MISSED_MS late */
    SAFETY_EVENT_GUARD,            /* a guard of a joint has acted; guards.h states when */
    SAFETY_EVENTS
};

/* The state after an event in a state, or SAFETY_NO_TRANSITION where it changes nothing: a command is refused then. */
extern const uint8_t safety_transitions[SAFETY_EVENTS][SAFETY_STATES];

enum {
    SAFETY_HEARTBEAT_MS = 200,
    SAFETY_STARVED_MS = 100,
    SAFETY_SATURATED_MS = 1000,
    SAFETY_MISSED_MS = 500,
    SAFETY_COUNTED_ELAPSED = 4, /* of coalesced ticks, so many count as silence of the host */
};

struct safety {
    enum link_state state;
    uint16_t faults;          /* bits of LINK_FAULT, latched until CLEAR */
    uint16_t tick_hz;
    uint32_t silent_ticks;    /* since the last heartbeat */
    uint32_t starved_ticks;   /* in a row */
    uint32_t saturated_ticks; /* in a row */
    bool peer_known;          /* the host has the same schema of messages */
};

/* The inputs of one tick. */
struct safety_inputs {
    uint32_t elapsed; /* ticks since the last one that was executed, normally 1 */
    bool heartbeat;   /* a heartbeat arrived since the last tick */
    bool setpoint_due;
    bool at_rest;   /* after the last tick */
    bool saturated; /* in the last tick */
    uint16_t guard_faults; /* bits of LINK_FAULT: the guards that act */
};

/* What a command depends on. `measured`: OK, or what the measurements say against ARM. */
struct safety_conditions {
    bool at_rest;
    bool estop_pressed;
    enum link_command_result measured;
};

void safety_init(struct safety *safety, enum link_reset_cause cause, uint16_t tick_hz);

/* How many ticks `ms` are, rounded up and at least one. */
uint32_t safety_ticks(const struct safety *safety, uint32_t ms);

/* Whether setpoints may be taken and executed: ARMED, RUNNING or STARVED. */
bool safety_is_active(const struct safety *safety);

/* Advances by one tick. Returns whether to follow the setpoint; otherwise slow down to rest. */
bool safety_tick(struct safety *safety, const struct safety_inputs *inputs);

/* The e-stop contact is open. */
void safety_press_estop(struct safety *safety);

/* Executes a command of the host (a number of LINK_COMMAND or anything else). */
enum link_command_result safety_command(struct safety *safety, uint8_t command,
                                        const struct safety_conditions *conditions);

#endif
