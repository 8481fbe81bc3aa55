/* The compiled core in a world of which every tick is one letter: what the host, the pin and the clock do in it.
 *
 * Each letter happens in the middle of a tick and runs the core to the middle of the next, servo step by servo step;
 * after every step it checks what must hold whatever happens. */
#ifndef WORLD_H
#define WORLD_H

#include "control.h"

enum { WORLD_LETTERS = 14 };

/* Every letter and what it does; each but the quiet, late and reset ones brings a heartbeat. */
struct world_letter {
    char letter;
    const char *meaning;
};
extern const struct world_letter world_letters[WORLD_LETTERS];

/* A moment of the world: the controller, and what the checks remember. */
struct world {
    struct control control;
    uint32_t tick;
    uint32_t silent_ticks;    /* since a heartbeat was sent */
    uint32_t resting_ticks;   /* without a setpoint while RUNNING or STARVED, and at rest */
    uint32_t braking_steps;   /* servo steps in a row in which the arm had to slow down */
    uint32_t chunk_id;
    uint32_t nonce;
    uint16_t seq;
    bool accepted; /* a chunk, since the arm last was inactive */
};

/* What was seen of the table of transitions, over all letters. */
extern bool world_seen[SAFETY_EVENTS][SAFETY_STATES];

/* A board that was just switched on. */
void world_begin(struct world *world);

/* Plays one letter. Returns what was violated, or a null pointer. */
const char *world_play(struct world *world, char letter);

/* Lets the host fall silent for good: the arm must be at rest and inactive in time. Returns what was violated. */
const char *world_settle(struct world *world, uint32_t *ticks);

/* A number that two worlds share only if every letter does the same to both (but for one chance in 2^64). */
uint64_t world_hash(const struct world *world);

#endif
