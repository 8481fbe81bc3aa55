#include "safety.h"

#include <string.h>

void safety_init(struct safety *safety, enum link_reset_cause cause)
{
    memset(safety, 0, sizeof *safety);
    safety->state = LINK_STATE_DISARMED;
    safety->silent_ticks = SAFETY_HEARTBEAT_TICKS;
    if (cause == LINK_RESET_CAUSE_WATCHDOG) {
        safety->faults = LINK_FAULT_WATCHDOG_RESET;
    }
}

bool safety_is_active(const struct safety *safety)
{
    return safety->state == LINK_STATE_ARMED || safety->state == LINK_STATE_RUNNING ||
           safety->state == LINK_STATE_STARVED;
}

static void latch(struct safety *safety, enum link_state state, unsigned fault)
{
    safety->state = state;
    safety->faults = (uint16_t)(safety->faults | fault);
}

static void count_ticks(struct safety *safety, const struct safety_inputs *inputs)
{
    const uint32_t elapsed = inputs->elapsed < SAFETY_COUNTED_ELAPSED ? inputs->elapsed : SAFETY_COUNTED_ELAPSED;
    if (inputs->heartbeat) {
        safety->silent_ticks = 0;
    } else if (safety->silent_ticks < SAFETY_HEARTBEAT_TICKS) {
        safety->silent_ticks += elapsed;
    }
    safety->saturated_ticks = inputs->saturated ? safety->saturated_ticks + 1u : 0u;
}

static void check_faults(struct safety *safety, const struct safety_inputs *inputs)
{
    if (safety->silent_ticks >= SAFETY_HEARTBEAT_TICKS) {
        latch(safety, LINK_STATE_SAFE, LINK_FAULT_HEARTBEAT);
    }
    if (inputs->elapsed > SAFETY_MISSED_TICKS) {
        latch(safety, LINK_STATE_SAFE, LINK_FAULT_TICK_OVERRUN);
    }
    if (safety->saturated_ticks >= SAFETY_SATURATED_TICKS) {
        latch(safety, LINK_STATE_SAFE, LINK_FAULT_LIMIT_SATURATION);
    }
}

static void starve(struct safety *safety, bool at_rest)
{
    safety->state = LINK_STATE_STARVED;
    safety->starved_ticks++;
    if (safety->starved_ticks >= SAFETY_STARVED_TICKS && at_rest) {
        latch(safety, LINK_STATE_SAFE, LINK_FAULT_STARVATION);
    }
}

bool safety_tick(struct safety *safety, const struct safety_inputs *inputs)
{
    count_ticks(safety, inputs);
    if (inputs->estop_pressed) {
        latch(safety, LINK_STATE_ESTOP, LINK_FAULT_ESTOP_PIN);
    }
    if (safety_is_active(safety)) {
        check_faults(safety, inputs);
    }
    if (!safety_is_active(safety)) {
        return false;
    }
    if (inputs->setpoint_due) {
        safety->state = LINK_STATE_RUNNING;
        safety->starved_ticks = 0;
        return true;
    }
    if (safety->state != LINK_STATE_ARMED) {
        starve(safety, inputs->at_rest);
    }
    return false;
}

static enum link_command_result arm(struct safety *safety)
{
    if (safety->state != LINK_STATE_DISARMED || safety->faults != 0 || !safety->peer_known) {
        return LINK_COMMAND_RESULT_WRONG_STATE;
    }
    if (safety->silent_ticks >= SAFETY_HEARTBEAT_TICKS) {
        return LINK_COMMAND_RESULT_NO_HEARTBEAT;
    }
    safety->state = LINK_STATE_ARMED;
    safety->starved_ticks = 0;
    safety->saturated_ticks = 0;
    return LINK_COMMAND_RESULT_OK;
}

static enum link_command_result disarm(struct safety *safety)
{
    if (safety->state == LINK_STATE_SAFE || safety->state == LINK_STATE_ESTOP) {
        return LINK_COMMAND_RESULT_WRONG_STATE;
    }
    safety->state = LINK_STATE_DISARMED;
    return LINK_COMMAND_RESULT_OK;
}

static enum link_command_result clear(struct safety *safety, bool at_rest, bool estop_pressed)
{
    if (safety_is_active(safety) || !at_rest || estop_pressed) {
        return LINK_COMMAND_RESULT_WRONG_STATE;
    }
    safety->state = LINK_STATE_DISARMED;
    safety->faults = 0;
    return LINK_COMMAND_RESULT_OK;
}

enum link_command_result safety_command(struct safety *safety, uint8_t command, bool at_rest, bool estop_pressed)
{
    switch (command) {
    case LINK_COMMAND_ARM:
        return arm(safety);
    case LINK_COMMAND_DISARM:
        return disarm(safety);
    case LINK_COMMAND_CLEAR:
        return clear(safety, at_rest, estop_pressed);
    case LINK_COMMAND_ESTOP:
        latch(safety, LINK_STATE_ESTOP, LINK_FAULT_ESTOP_COMMAND);
        return LINK_COMMAND_RESULT_OK;
    default:
        return LINK_COMMAND_RESULT_UNKNOWN_COMMAND;
    }
}
