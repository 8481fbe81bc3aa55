/* The states of the arm and the faults that take it out of motion. Knows nothing of joints, frames or clocks.
 *
 *   DISARMED --ARM--> ARMED --first setpoint--> RUNNING <--setpoint / none--> STARVED
 *   ARMED, RUNNING, STARVED --DISARM--> DISARMED
 *   ARMED, RUNNING, STARVED --fault--> SAFE --CLEAR, at rest--> DISARMED
 *   any --e-stop--> ESTOP --CLEAR, at rest, pin released--> DISARMED
 *
 * In every state but ARMED, RUNNING and STARVED the arm slows down to rest within its limits and holds. */
#ifndef SAFETY_H
#define SAFETY_H

#include "serial_link.h"

enum {
    SAFETY_HEARTBEAT_TICKS = 10,   /* silence of the host: 200 ms */
    SAFETY_STARVED_TICKS = 5,      /* ticks without a setpoint before SAFE */
    SAFETY_SATURATED_TICKS = 50,   /* ticks in a row held back by velocity or acceleration limits */
    SAFETY_MISSED_TICKS = 25,      /* ticks that the interrupt may come late */
    SAFETY_COUNTED_ELAPSED = 4,    /* of coalesced ticks, so many count as silence of the host */
};

struct safety {
    enum link_state state;
    uint16_t faults;          /* bits of LINK_FAULT, latched until CLEAR */
    uint32_t silent_ticks;    /* since the last heartbeat */
    uint32_t starved_ticks;   /* in a row */
    uint32_t saturated_ticks; /* in a row */
    bool peer_known;          /* the host speaks this version of the messages */
};

/* What one tick knows. */
struct safety_inputs {
    uint32_t elapsed; /* ticks since the last one that was executed, normally 1 */
    bool heartbeat;   /* the host was heard since the last tick */
    bool estop_pressed;
    bool setpoint_due;
    bool at_rest;   /* after the last tick */
    bool saturated; /* in the last tick */
};

void safety_init(struct safety *safety, enum link_reset_cause cause);

/* Whether setpoints may be taken and executed: ARMED, RUNNING or STARVED. */
bool safety_is_active(const struct safety *safety);

/* Advances by one tick. Returns whether to follow the setpoint; otherwise slow down to rest. */
bool safety_tick(struct safety *safety, const struct safety_inputs *inputs);

/* Executes a command of the host (a number of LINK_COMMAND or anything else). */
enum link_command_result safety_command(struct safety *safety, uint8_t command, bool at_rest, bool estop_pressed);

#endif
