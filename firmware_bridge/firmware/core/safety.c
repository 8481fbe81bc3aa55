#include "safety.h"

#include <string.h>

#define DISARMED LINK_STATE_DISARMED
#define ARMED LINK_STATE_ARMED
#define RUNNING LINK_STATE_RUNNING
#define STARVED LINK_STATE_STARVED
#define SAFE LINK_STATE_SAFE
#define ESTOP LINK_STATE_ESTOP
#define NONE SAFETY_NO_TRANSITION

const uint8_t safety_transitions[SAFETY_EVENTS][SAFETY_STATES] = {
    /* from                            DISARMED  ARMED     RUNNING   STARVED   SAFE      ESTOP */
    [SAFETY_EVENT_ARM] =              {ARMED,    NONE,     NONE,     NONE,     NONE,     NONE},
    [SAFETY_EVENT_DISARM] =           {DISARMED, DISARMED, DISARMED, DISARMED, NONE,     NONE},
    [SAFETY_EVENT_CLEAR] =            {DISARMED, NONE,     NONE,     NONE,     DISARMED, DISARMED},
    [SAFETY_EVENT_RELEASE] =          {DISARMED, NONE,     NONE,     NONE,     NONE,     NONE},
    [SAFETY_EVENT_ESTOP_COMMAND] =    {ESTOP,    ESTOP,    ESTOP,    ESTOP,    ESTOP,    ESTOP},
    [SAFETY_EVENT_ESTOP_PIN] =        {ESTOP,    ESTOP,    ESTOP,    ESTOP,    ESTOP,    ESTOP},
    [SAFETY_EVENT_SETPOINT] =         {NONE,     RUNNING,  RUNNING,  RUNNING,  NONE,     NONE},
    [SAFETY_EVENT_NO_SETPOINT] =      {NONE,     NONE,     STARVED,  STARVED,  NONE,     NONE},
    [SAFETY_EVENT_STARVATION] =       {NONE,     NONE,     NONE,     SAFE,     NONE,     NONE},
    [SAFETY_EVENT_HEARTBEAT] =        {NONE,     SAFE,     SAFE,     SAFE,     NONE,     NONE},
    [SAFETY_EVENT_LIMIT_SATURATION] = {NONE,     NONE,     SAFE,     NONE,     NONE,     NONE},
    [SAFETY_EVENT_TICK_OVERRUN] =     {NONE,     SAFE,     SAFE,     SAFE,     NONE,     NONE},
    [SAFETY_EVENT_GUARD] =            {NONE,     SAFE,     SAFE,     SAFE,     NONE,     NONE},
};

void safety_init(struct safety *safety, enum link_reset_cause cause, uint16_t tick_hz)
{
    memset(safety, 0, sizeof *safety);
    safety->state = LINK_STATE_DISARMED;
    safety->tick_hz = tick_hz;
    safety->silent_ticks = safety_ticks(safety, SAFETY_HEARTBEAT_MS);
    if (cause == LINK_RESET_CAUSE_WATCHDOG) {
        safety->faults = LINK_FAULT_WATCHDOG_RESET;
    }
}

uint32_t safety_ticks(const struct safety *safety, uint32_t ms)
{
    return (ms * safety->tick_hz + 999u) / 1000u;
}

bool safety_is_active(const struct safety *safety)
{
    return safety->state == LINK_STATE_ARMED || safety->state == LINK_STATE_RUNNING ||
           safety->state == LINK_STATE_STARVED;
}

/* Changes the state as the table says; returns false where the table has no entry. */
static bool apply_event(struct safety *safety, enum safety_event event)
{
    const uint8_t next = safety_transitions[event][safety->state];
    if (next == SAFETY_NO_TRANSITION) {
        return false;
    }
    safety->state = (enum link_state)next;
    return true;
}

static void latch(struct safety *safety, enum safety_event event, unsigned fault)
{
    if (apply_event(safety, event)) {
        safety->faults = (uint16_t)(safety->faults | fault);
    }
}

void safety_press_estop(struct safety *safety)
{
    latch(safety, SAFETY_EVENT_ESTOP_PIN, LINK_FAULT_ESTOP_PIN);
}

static bool is_silent(const struct safety *safety)
{
    return safety->silent_ticks >= safety_ticks(safety, SAFETY_HEARTBEAT_MS);
}

static void count_ticks(struct safety *safety, const struct safety_inputs *inputs)
{
    const uint32_t elapsed = inputs->elapsed < SAFETY_COUNTED_ELAPSED ? inputs->elapsed : SAFETY_COUNTED_ELAPSED;
    if (inputs->heartbeat) {
        safety->silent_ticks = 0;
    } else if (!is_silent(safety)) {
        safety->silent_ticks += elapsed;
    }
    safety->saturated_ticks = inputs->saturated ? safety->saturated_ticks + 1u : 0u;
}

static void check_faults(struct safety *safety, const struct safety_inputs *inputs)
{
    if (is_silent(safety)) {
        latch(safety, SAFETY_EVENT_HEARTBEAT, LINK_FAULT_HEARTBEAT);
    }
    if (inputs->elapsed > safety_ticks(safety, SAFETY_MISSED_MS)) {
        latch(safety, SAFETY_EVENT_TICK_OVERRUN, LINK_FAULT_TICK_OVERRUN);
    }
    if (safety->saturated_ticks >= safety_ticks(safety, SAFETY_SATURATED_MS)) {
        latch(safety, SAFETY_EVENT_LIMIT_SATURATION, LINK_FAULT_LIMIT_SATURATION);
    }
    if (inputs->guard_faults != 0) {
        latch(safety, SAFETY_EVENT_GUARD, inputs->guard_faults);
    }
}

static void miss_setpoint(struct safety *safety, bool at_rest)
{
    if (apply_event(safety, SAFETY_EVENT_NO_SETPOINT)) {
        safety->starved_ticks++;
    }
    if (safety->starved_ticks >= safety_ticks(safety, SAFETY_STARVED_MS) && at_rest) {
        latch(safety, SAFETY_EVENT_STARVATION, LINK_FAULT_STARVATION);
    }
}

bool safety_tick(struct safety *safety, const struct safety_inputs *inputs)
{
    count_ticks(safety, inputs);
    check_faults(safety, inputs);
    if (!inputs->setpoint_due) {
        miss_setpoint(safety, inputs->at_rest);
        return false;
    }
    const bool following = apply_event(safety, SAFETY_EVENT_SETPOINT);
    if (following) {
        safety->starved_ticks = 0;
    }
    return following;
}

static enum link_command_result arm(struct safety *safety, enum link_command_result measured)
{
    const bool may_arm = safety_transitions[SAFETY_EVENT_ARM][safety->state] != NONE;
    if (!may_arm || safety->faults != 0 || !safety->peer_known) {
        return LINK_COMMAND_RESULT_WRONG_STATE;
    }
    if (is_silent(safety)) {
        return LINK_COMMAND_RESULT_NO_HEARTBEAT;
    }
    if (measured != LINK_COMMAND_RESULT_OK) {
        return measured;
    }
    safety->starved_ticks = 0;
    safety->saturated_ticks = 0;
    (void)apply_event(safety, SAFETY_EVENT_ARM);
    return LINK_COMMAND_RESULT_OK;
}

static bool clear(struct safety *safety, const struct safety_conditions *conditions)
{
    if (!conditions->at_rest || conditions->estop_pressed || !apply_event(safety, SAFETY_EVENT_CLEAR)) {
        return false;
    }
    safety->faults = 0;
    return true;
}

static enum link_command_result result_of(bool done)
{
    return done ? LINK_COMMAND_RESULT_OK : LINK_COMMAND_RESULT_WRONG_STATE;
}

enum link_command_result safety_command(struct safety *safety, uint8_t command,
                                        const struct safety_conditions *conditions)
{
    switch (command) {
    case LINK_COMMAND_ARM:
        return arm(safety, conditions->measured);
    case LINK_COMMAND_DISARM:
        return result_of(apply_event(safety, SAFETY_EVENT_DISARM));
    case LINK_COMMAND_CLEAR:
        return result_of(clear(safety, conditions));
    case LINK_COMMAND_RELEASE:
        return result_of(conditions->at_rest && apply_event(safety, SAFETY_EVENT_RELEASE));
    case LINK_COMMAND_ESTOP:
        latch(safety, SAFETY_EVENT_ESTOP_COMMAND, LINK_FAULT_ESTOP_COMMAND);
        return LINK_COMMAND_RESULT_OK;
    default:
        return LINK_COMMAND_RESULT_UNKNOWN_COMMAND;
    }
}
