/* The whole controller: bytes of the host in, one executed setpoint per tick out.
 *
 * Who touches what:
 *   UART interrupt  `received` (writing end), `receive_overruns`
 *   tick interrupt  `motion`, `safety`, `ring` (looking up), telemetry into `outbox`, `tick`
 *   main loop       everything else. It touches `safety`, `ring`, `motion` and the telemetry in `outbox` only with
 *                   the tick masked; it reads `tick` freely and sets `heartbeat_heard`, both one aligned word. */
#ifndef CONTROL_H
#define CONTROL_H

#include "byte_queue.h"
#include "chunk_assembly.h"
#include "frame_decoder.h"
#include "joint_table.h"
#include "motion_limiter.h"
#include "outbox.h"
#include "safety.h"
#include "sequence_window.h"
#include "setpoint_ring.h"

enum { CONTROL_TICK_HZ = 50, CONTROL_REPLAYED_TICKS = 4 };

struct answered_command {
    bool valid;
    uint32_t nonce;
    uint8_t command;
    uint8_t result;
};

struct control {
    const struct joint_table *table;
    enum link_reset_cause reset_cause;
    uint32_t counter_hz;
    uint32_t tick_period; /* in counts of the free-running counter */
    uint64_t epoch;       /* counter value of tick 0 */

    volatile uint32_t tick; /* the last executed one */
    volatile bool heartbeat_heard;
    volatile uint32_t receive_overruns;

    struct motion_limits limits[LINK_MAX_JOINTS];
    struct joint_motion motion[LINK_MAX_JOINTS];
    bool saturated; /* the last tick was held back by velocity or acceleration limits */
    struct safety safety;
    struct setpoint_ring ring;
    struct byte_queue received;
    struct frame_decoder decoder;
    struct sequence_window window;
    struct chunk_assembly assembly;
    struct outbox outbox;
    struct answered_command answered;
    struct link_counters counters;
    uint32_t counters_tick; /* when the counters were last sent */
};

void control_init(struct control *control, const struct joint_table *table, enum link_reset_cause cause,
                  uint32_t counter_hz);

/* Says at which counter value tick 0 is; before the first tick. */
void control_set_epoch(struct control *control, uint64_t epoch);

/* Executes the tick that `counter` falls into. Called by the tick interrupt. A second call within the same tick
 * changes nothing. */
void control_tick(struct control *control, uint64_t counter, bool estop_pressed);

/* Whether every joint is at rest. */
bool control_is_at_rest(const struct control *control);

/* Takes one byte of the host. Called by the UART interrupt. */
void control_receive_byte(struct control *control, uint8_t byte);

/* Answers what the host sent, and sends what is waiting. Called by the main loop. */
void control_poll(struct control *control);

#endif
