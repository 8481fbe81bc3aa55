/* Detects repeated frames, and counts missing ones.
 *
 * The 32 newest numbers are stored. A frame that arrives after later ones is accepted if it is new; one that is
 * further back means that the sender restarted its numbers. */
#ifndef SEQUENCE_WINDOW_H
#define SEQUENCE_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

struct sequence_window {
    uint16_t newest;
    uint32_t seen; /* bit k: the frame `newest - k` arrived; 0 before the first frame */
    uint32_t duplicates;
    uint32_t gaps; /* numbers skipped; a frame that arrives late was counted here before */
};

/* Accepts the next frame with any number; the counters stay. */
void sequence_window_restart(struct sequence_window *window);

/* Returns whether the frame is new. */
bool sequence_window_accept(struct sequence_window *window, uint16_t seq);

#endif
