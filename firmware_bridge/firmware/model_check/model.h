/* A model of the compiled core and of everything that acts on it: the host, the e-stop contact, the clock, the board.
 *
 * Time advances by events. An event starts in the middle of a tick, acts on the core, and runs it servo step by servo
 * step to the middle of the next tick; the invariants are checked after every step. A character names each event, so
 * that a string is a sequence of events. */
#ifndef MODEL_H
#define MODEL_H

#include "control.h"

enum { MODEL_EVENTS = 23, MODEL_CONDITIONS = 5 };

/* Every event. Each one contains a heartbeat of the host unless its meaning excludes it: `q`, `s`, `l`, `r`. */
struct model_event {
    char code;
    const char *meaning;
};
extern const struct model_event model_events[MODEL_EVENTS];

/* The state of the model: the controller, and what the checks count. */
struct model {
    struct control control;
    uint32_t tick;
    uint32_t silent_ticks;  /* since the last heartbeat */
    uint32_t resting_ticks; /* at rest and without a setpoint while STARVED */
    uint32_t braking_steps; /* servo steps in a row in which the arm had to brake */
    uint32_t chunk_id;
    uint32_t nonce;
    uint16_t seq;
    bool accepted; /* the core accepted a chunk since the arm last was inactive */

    char servo_event;   /* the event that decides what the servo of joint 0 measures */
    float displacement; /* how far it is away from where it is commanded, after 'f' */
    struct joint_measurement measured;
    uint32_t age;       /* of the measurement, in servo steps */
    uint32_t held_ticks[MODEL_CONDITIONS]; /* for which a condition of model_servo.c has held in an active arm */
    uint32_t relief_steps; /* servo steps in a row in which the arm moved to where it was measured after a contact */
};

/* The entries of the table of transitions that occurred in any sequence. */
extern bool model_transitions_seen[SAFETY_EVENTS][SAFETY_STATES];

/* Powers the board on. */
void model_init(struct model *model);

/* Applies one event. Returns the violated invariant, or a null pointer. */
const char *model_apply(struct model *model, char code);

/* Runs without further heartbeats until the arm is inactive and at rest, and counts the ticks. Returns the violated
 * invariant, or a null pointer. */
const char *model_run_to_rest(struct model *model, uint32_t *ticks);

/* A hash of everything that decides what later events do. Two models of the same hash continue alike, but for a chance
 * of 1 in 2^64. */
uint64_t model_hash(const struct model *model);

#endif
