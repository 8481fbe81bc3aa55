/* The whole controller: reads the bytes of the host and computes the position of every joint at every servo step.
 *
 * A tick is `servo_steps` steps of the servo interrupt. The first step of a tick advances the
 * state, looks up the setpoint, and reports. Every step moves each joint along its curve, within its
 * limits, and reads the e-stop.
 *
 * Which context uses what:
 *   UART interrupt   `received` (writing end), `receive_overruns`
 *   servo interrupt  `measured`, `motion`, `curves`, `following`, `safety`, `guards`, `ring` (looking up), telemetry into
 *                    `outbox`, `tick`
 *   main loop        everything else. It uses data of the servo interrupt only while that is masked; it reads `tick`
 *                    freely and sets `heartbeat_heard`, both one aligned word. */
#ifndef CONTROL_H
#define CONTROL_H

#include "byte_queue.h"
#include "chunk_assembly.h"
#include "actuators.h"
#include "frame_decoder.h"
#include "guards.h"
#include "joint_table.h"
#include "measurement.h"
#include "motion_limiter.h"
#include "outbox.h"
#include "safety.h"
#include "sequence_window.h"
#include "setpoint_curve.h"
#include "setpoint_ring.h"

enum { CONTROL_REPLAYED_TICKS = 4 };

struct answered_command {
    bool valid;
    uint32_t nonce;
    uint8_t command;
    uint8_t result;
    uint8_t joint;
};

struct control {
    const struct joint_table *table;
    enum link_reset_cause reset_cause;
    uint32_t counter_hz;
    uint32_t servo_period;  /* in counts of the free-running counter */
    uint32_t servo_steps;   /* of one tick */
    float servo_step_ticks; /* a servo step in ticks */
    uint64_t epoch;         /* counter value of tick 0 */

    volatile uint32_t tick; /* the last executed one */
    uint32_t servo_step;    /* the last executed one of that tick, below `servo_steps` */
    volatile bool heartbeat_heard;
    volatile uint32_t receive_overruns;

    struct motion_limits limits[LINK_MAX_JOINTS];
    struct joint_measurement measured[LINK_MAX_JOINTS]; /* filled by the back end before each servo step */
    enum torque torque; /* of the servos. Unless it is on, `motion` follows the measured positions */
    struct joint_motion motion[LINK_MAX_JOINTS];
    struct setpoint_curve curves[LINK_MAX_JOINTS];
    bool following;        /* `curves` lead from the setpoint of this tick to that of the next */
    uint8_t limited;       /* bits of LINK_TICK_FLAG: the limits that acted since the last report */
    bool saturated;        /* velocity or acceleration limits kept the last tick behind its setpoint */
    struct safety safety;
    struct guards guards;
    uint8_t fault_joint;         /* of the latched fault of a joint, or LINK_NO_JOINT */
    bool relieving;              /* moves to `relief`, where the joints were measured after a contact */
    float relief[LINK_MAX_JOINTS];
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

/* Sets the counter value of tick 0; before the first step. */
void control_set_epoch(struct control *control, uint64_t epoch);

/* Executes the servo step that `counter` falls into, and those that the late interrupt missed. Called by the
 * servo interrupt. A second call within the same step changes nothing. */
void control_servo(struct control *control, uint64_t counter, bool estop_pressed);

/* Removes all setpoints; the joints brake to rest. */
void control_clear_setpoints(struct control *control);

/* Whether every joint is at rest. */
bool control_is_at_rest(const struct control *control);

/* Takes one byte of the host. Called by the UART interrupt. */
void control_receive_byte(struct control *control, uint8_t byte);

/* Answers what the host sent, and sends what is waiting. Called by the main loop. */
void control_poll(struct control *control);

#endif
