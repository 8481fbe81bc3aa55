/* Collects the fragments of one chunk, the newest. Belongs to the main loop.
 *
 * A chunk takes effect only when all of its fragments have arrived. Fragments may come in any order and more than once.
 * The firmware reports which have arrived after every CHUNK_ACKNOWLEDGED_TOGETHER of them, at once if an earlier one is
 * missing, when the last one arrives, when one is repeated, and once after CHUNK_QUIET_TICKS without a fragment. */
#ifndef CHUNK_ASSEMBLY_H
#define CHUNK_ASSEMBLY_H

#include "chunk.h"

#define CHUNK_QUIET_TICKS 2
#define CHUNK_ACKNOWLEDGED_TOGETHER 2

struct chunk_assembly {
    struct chunk chunk; /* id 0: none yet */
    uint8_t fragment_count;
    uint32_t received;      /* bit k: fragment k arrived */
    uint64_t steps_present; /* bit k: step k arrived */
    uint8_t expected;       /* index after the highest that arrived */
    uint8_t unacknowledged; /* fragments that no reply has confirmed yet */
    bool open;              /* fragments are missing */
    bool reminded;          /* of missing fragments, since the last one arrived */
    uint32_t last_tick;     /* when a fragment last arrived */
    uint32_t decided_tick;  /* when the chunk was entered or refused */
    enum link_chunk_result result;
    uint8_t joint; /* that the chunk was refused for, or LINK_NO_JOINT */
};

enum assembly_event { ASSEMBLY_QUIET, ASSEMBLY_REPLY, ASSEMBLY_COMPLETE };

void chunk_assembly_reset(struct chunk_assembly *assembly);

/* Takes one fragment. ASSEMBLY_REPLY: send `reply`. ASSEMBLY_COMPLETE: enter `chunk`, then call _finish. */
enum assembly_event chunk_assembly_add(struct chunk_assembly *assembly, const struct link_fragment *fragment,
                                       uint8_t joints, uint32_t now, struct link_chunk_reply *reply);

/* Keeps the result and its tick for fragments that are repeated because the host did not hear them, and fills `reply`.
 */
void chunk_assembly_finish(struct chunk_assembly *assembly, enum link_chunk_result result, uint8_t joint,
                           uint32_t tick, struct link_chunk_reply *reply);

/* Returns true where the host is to be reminded of missing fragments by `reply`. */
bool chunk_assembly_remind(struct chunk_assembly *assembly, uint32_t now, struct link_chunk_reply *reply);

#endif
