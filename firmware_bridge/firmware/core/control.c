#include "control.h"

#include <string.h>

void control_init(struct control *control, const struct joint_table *table, enum link_reset_cause cause,
                  uint32_t counter_hz)
{
    memset(control, 0, sizeof *control);
    control->table = table;
    control->reset_cause = cause;
    control->counter_hz = counter_hz;
    control->tick_period = counter_hz / CONTROL_TICK_HZ;
    for (uint8_t i = 0; i < table->count; i++) {
        control->limits[i] = motion_limits_of(&table->joints[i], (float)CONTROL_TICK_HZ);
        control->motion[i].position = table->joints[i].home;
    }
    safety_init(&control->safety, cause);
    setpoint_ring_clear(&control->ring);
    frame_decoder_init(&control->decoder);
    chunk_assembly_reset(&control->assembly);
    outbox_init(&control->outbox);
}

void control_set_epoch(struct control *control, uint64_t epoch)
{
    control->epoch = epoch;
}

bool control_is_at_rest(const struct control *control)
{
    for (uint8_t i = 0; i < control->table->count; i++) {
        if (control->motion[i].velocity < 0.0f || control->motion[i].velocity > 0.0f) {
            return false;
        }
    }
    return true;
}

/* How far the target moves in the next tick; where nothing is planned, as far as it came in this one. */
static float target_velocity(const struct setpoint *setpoint, const struct setpoint *before,
                             const struct setpoint *after, uint8_t joint, float resolution)
{
    const float here = (float)setpoint->counts[joint] * resolution;
    if (after != NULL) {
        return (float)after->counts[joint] * resolution - here;
    }
    return before != NULL ? here - (float)before->counts[joint] * resolution : 0.0f;
}

/* Follows the setpoint of `tick`; returns the flags of all joints together. */
static uint8_t follow(struct control *control, const struct setpoint *setpoint)
{
    const struct setpoint *before = setpoint_ring_at(&control->ring, setpoint->tick - 1u);
    const struct setpoint *after = setpoint_ring_at(&control->ring, setpoint->tick + 1u);
    unsigned flags = 0;
    for (uint8_t i = 0; i < control->table->count; i++) {
        const float resolution = control->table->joints[i].resolution;
        const float target = (float)setpoint->counts[i] * resolution;
        const float velocity = target_velocity(setpoint, before, after, i, resolution);
        flags |= motion_track(&control->limits[i], &control->motion[i], target, velocity);
    }
    return (uint8_t)flags;
}

static void slow_down(struct control *control)
{
    for (uint8_t i = 0; i < control->table->count; i++) {
        motion_stop(&control->limits[i], &control->motion[i]);
    }
}

/* Passes through the last ticks that the interrupt missed, so that the arm is where it would have been. Of a longer
 * pause only CONTROL_REPLAYED_TICKS count, which bounds how far one tick can move. */
static void replay_missed(struct control *control, uint32_t tick, uint32_t elapsed)
{
    uint32_t missed = elapsed - 1u;
    missed = missed < CONTROL_REPLAYED_TICKS ? missed : CONTROL_REPLAYED_TICKS;
    for (; missed > 0; missed--) {
        const struct setpoint *setpoint = setpoint_ring_at(&control->ring, tick - missed);
        if (setpoint != NULL && safety_is_active(&control->safety)) {
            (void)follow(control, setpoint);
        } else {
            slow_down(control);
        }
    }
}

static bool decide(struct control *control, const struct setpoint *setpoint, uint32_t elapsed, bool estop_pressed)
{
    const struct safety_inputs inputs = {
        .elapsed = elapsed,
        .heartbeat = control->heartbeat_heard,
        .estop_pressed = estop_pressed,
        .setpoint_due = setpoint != NULL,
        .at_rest = control_is_at_rest(control),
        .saturated = control->saturated,
    };
    control->heartbeat_heard = false;
    const bool was_active = safety_is_active(&control->safety);
    const bool following = safety_tick(&control->safety, &inputs);
    if (was_active && !safety_is_active(&control->safety)) {
        setpoint_ring_clear(&control->ring);
    }
    return following;
}

static void report(struct control *control, uint64_t counter, const struct setpoint *followed, uint8_t flags)
{
    struct link_telemetry telemetry = {
        .tick = control->tick,
        .counter = counter,
        .chunk_id = followed != NULL ? followed->chunk_id : 0u,
        .observed_tick = followed != NULL ? followed->observed_tick : 0u,
        .faults = control->safety.faults,
        .ring_level = setpoint_ring_level(&control->ring, control->tick),
        .state = (uint8_t)control->safety.state,
        .flags = flags,
        .joints = control->table->count,
    };
    for (uint8_t i = 0; i < control->table->count; i++) {
        telemetry.executed[i] = control->motion[i].position;
    }
    outbox_add_telemetry(&control->outbox, &telemetry);
}

static uint8_t execute(struct control *control, const struct setpoint *setpoint)
{
    if (setpoint != NULL) {
        const uint8_t limited = follow(control, setpoint);
        const unsigned held = LINK_TICK_FLAG_VELOCITY_LIMITED | LINK_TICK_FLAG_ACCELERATION_LIMITED;
        control->saturated = (limited & held) != 0;
        control->counters.limited_ticks += limited != 0 ? 1u : 0u;
        return (uint8_t)(limited | LINK_TICK_FLAG_EXECUTED);
    }
    slow_down(control);
    control->saturated = false;
    const bool starved = control->safety.state == LINK_STATE_STARVED;
    control->counters.starved_ticks += starved ? 1u : 0u;
    return starved ? LINK_TICK_FLAG_STARVED : 0u;
}

void control_tick(struct control *control, uint64_t counter, bool estop_pressed)
{
    const uint32_t tick = (uint32_t)((counter - control->epoch) / control->tick_period);
    const int32_t elapsed = wrapped_difference(tick, control->tick);
    if (elapsed <= 0) {
        return;
    }
    const uint32_t missed = (uint32_t)elapsed - 1u;
    control->counters.missed_ticks += missed;
    replay_missed(control, tick, (uint32_t)elapsed);
    const struct setpoint *setpoint = setpoint_ring_at(&control->ring, tick);
    const bool following = decide(control, setpoint, (uint32_t)elapsed, estop_pressed);
    const struct setpoint *followed = following ? setpoint : NULL;
    unsigned flags = execute(control, followed);
    flags |= missed != 0 ? LINK_TICK_FLAG_TICKS_MISSED : 0u;
    control->tick = tick;
    report(control, counter, followed, (uint8_t)flags);
}

void control_receive_byte(struct control *control, uint8_t byte)
{
    if (!byte_queue_push(&control->received, byte)) {
        control->receive_overruns++;
    }
}
