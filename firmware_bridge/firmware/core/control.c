#include "control.h"

#include <string.h>

void control_init(struct control *control, const struct joint_table *table, enum link_reset_cause cause,
                  uint32_t counter_hz)
{
    memset(control, 0, sizeof *control);
    control->table = table;
    control->reset_cause = cause;
    control->counter_hz = counter_hz;
    control->servo_period = counter_hz / table->servo_hz;
    control->servo_steps = table->servo_hz / table->control_hz;
    control->servo_step_ticks = 1.0f / (float)control->servo_steps;
    control->servo_step = control->servo_steps - 1u; /* tick 0 is over: the first to be executed is tick 1 */
    for (uint8_t i = 0; i < table->count; i++) {
        control->limits[i] = motion_limits_of(&table->joints[i], (float)table->servo_hz);
        control->motion[i].position = table->joints[i].home;
        control->measured[i].position = table->joints[i].home;
        control->measured[i].age = table->servo_count > 0 ? MEASUREMENT_TOO_OLD : 0u;
    }
    control->fault_joint = LINK_NO_JOINT;
    safety_init(&control->safety, cause, table->control_hz);
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

void control_clear_setpoints(struct control *control)
{
    setpoint_ring_clear(&control->ring);
    control->following = false;
}

static void brake_joints(struct control *control)
{
    for (uint8_t i = 0; i < control->table->count; i++) {
        motion_stop(&control->limits[i], &control->motion[i]);
    }
}

/* Moves a joint one step along its curve, `here` ticks after the last setpoint; returns its flags. */
static uint8_t track_curve(struct control *control, uint8_t joint, float here)
{
    const struct setpoint_curve *curve = &control->curves[joint];
    const float step = control->servo_step_ticks;
    const struct motion_target target = {
        .position = setpoint_curve_at(curve, here),
        .velocity = setpoint_curve_velocity(curve, here + 0.5f * step) * step,
        .change = (curve->end_slope - curve->slope) * step * step,
    };
    if (!curve->is_corner) {
        return motion_track(&control->limits[joint], &control->motion[joint], &target, NULL);
    }
    const struct motion_target corner = {
        .position = curve->next - (1.0f - here) * curve->end_slope,
        .velocity = curve->end_slope * step,
    };
    return motion_track(&control->limits[joint], &control->motion[joint], &target, &corner);
}

/* Moves one step along the curves; returns the flags of all joints together. */
static uint8_t track_curves(struct control *control)
{
    const float here = (float)control->servo_step / (float)control->servo_steps;
    unsigned flags = 0;
    for (uint8_t i = 0; i < control->table->count; i++) {
        flags |= track_curve(control, i, here);
    }
    return (uint8_t)flags;
}

/* Servos without torque are moved by hand, or hold where they are: the position of a joint is where its encoder says. */
static void follow_encoders(struct control *control)
{
    for (uint8_t i = 0; i < control->table->count; i++) {
        const struct joint_measurement *measured = &control->measured[i];
        if ((measured->flags & LINK_JOINT_FLAG_MEASURED) != 0) {
            control->motion[i].position = motion_inside(&control->limits[i], measured->position);
            control->motion[i].velocity = 0.0f;
        }
    }
}

/* After a contact, a joint that is held where it should be would press on: at rest, it is moved to where it is. */
static void relieve_joints(struct control *control)
{
    for (uint8_t i = 0; i < control->table->count; i++) {
        const struct motion_target target = {.position = control->relief[i]};
        (void)motion_track(&control->limits[i], &control->motion[i], &target, NULL);
    }
}

static uint8_t execute_servo_step(struct control *control)
{
    if (control->following) {
        return track_curves(control);
    }
    control->relieving = control->relieving && control->safety.state == LINK_STATE_SAFE; /* an e-stop ends it at once */
    if (control->torque != TORQUE_ON) {
        follow_encoders(control);
    } else if (control->relieving) {
        relieve_joints(control);
    } else {
        brake_joints(control);
    }
    return 0;
}

/* Decides about relief once, at the first tick at rest. */
static void begin_relief(struct control *control)
{
    const unsigned contact = LINK_FAULT_CONTACT | LINK_FAULT_FOLLOWING_ERROR;
    const bool in_contact = control->safety.state == LINK_STATE_SAFE && (control->safety.faults & contact) != 0;
    if (!in_contact) {
        control->relieving = false;
    } else if (!control->relieving && control_is_at_rest(control)) {
        control->relieving = true;
        for (uint8_t i = 0; i < control->table->count; i++) {
            const struct joint_measurement *measured = &control->measured[i];
            const bool known = (measured->flags & LINK_JOINT_FLAG_MEASURED) != 0;
            const float position = known ? measured->position : control->motion[i].position;
            control->relief[i] = motion_inside(&control->limits[i], position);
        }
    }
}

static float position_of(const struct setpoint *setpoint, uint8_t joint, float resolution, float otherwise)
{
    return setpoint != NULL ? (float)setpoint->counts[joint] * resolution : otherwise;
}

/* Computes the curves from this setpoint to the next. They start with the velocity of the last curves, or of the joints
 * if there were none, and are straight where no setpoint follows. */
static void compute_curves(struct control *control, const struct setpoint *setpoint)
{
    const struct setpoint *next = setpoint_ring_at(&control->ring, setpoint->tick + 1u);
    const struct setpoint *after = next != NULL ? setpoint_ring_at(&control->ring, setpoint->tick + 2u) : NULL;
    const float steps = (float)control->servo_steps;
    for (uint8_t i = 0; i < control->table->count; i++) {
        const float resolution = control->table->joints[i].resolution;
        const float slope = control->following ? control->curves[i].end_slope : control->motion[i].velocity * steps;
        const float here = (float)setpoint->counts[i] * resolution;
        const float there = position_of(next, i, resolution, here + slope);
        const float beyond = position_of(after, i, resolution, there + (there - here));
        const float max_turn = control->limits[i].max_change * steps * steps;
        control->curves[i] = setpoint_curve_through(here, slope, there, beyond, max_turn);
    }
}

/* Executes the first step of a tick, with its setpoint or without. Where the next tick has none, there is no curve, and
 * the joints brake from the second step on. */
static uint8_t begin_tick(struct control *control, const struct setpoint *setpoint)
{
    control->servo_step = 0;
    if (setpoint != NULL) {
        compute_curves(control, setpoint);
    }
    control->following = setpoint != NULL;
    const uint8_t flags = execute_servo_step(control);
    control->following = setpoint != NULL && setpoint_ring_at(&control->ring, setpoint->tick + 1u) != NULL;
    return flags;
}

/* Executes the steps of the current tick up to `last`. */
static void run_servo_steps(struct control *control, uint32_t last)
{
    while (control->servo_step < last) {
        control->servo_step++;
        control->limited |= execute_servo_step(control);
    }
}

/* Executes the last ticks that the interrupt missed, so that the arm is where it would have been. Of a longer
 * pause only CONTROL_REPLAYED_TICKS count, which bounds how far one interrupt can move. */
static void replay_missed(struct control *control, uint32_t tick, uint32_t missed)
{
    uint32_t replayed = missed;
    if (missed > CONTROL_REPLAYED_TICKS) {
        replayed = CONTROL_REPLAYED_TICKS;
        control->following = false; /* the curves belong to an earlier tick */
    }
    for (; replayed > 0; replayed--) {
        const struct setpoint *setpoint = setpoint_ring_at(&control->ring, tick - replayed);
        control->limited |= begin_tick(control, safety_is_active(&control->safety) ? setpoint : NULL);
        run_servo_steps(control, control->servo_steps - 1u);
    }
}

static bool advance_state(struct control *control, const struct setpoint *setpoint, uint32_t elapsed)
{
    struct safety_inputs inputs = {
        .elapsed = elapsed,
        .heartbeat = control->heartbeat_heard,
        .setpoint_due = setpoint != NULL,
        .at_rest = control_is_at_rest(control),
        .saturated = control->saturated,
    };
    if (safety_is_active(&control->safety)) {
        const struct guard_verdict verdict =
            guards_tick(&control->guards, control->table, control->measured, control->motion);
        inputs.guard_faults = verdict.faults;
        control->fault_joint = verdict.joint;
    }
    control->heartbeat_heard = false;
    const bool was_active = safety_is_active(&control->safety);
    const bool following = safety_tick(&control->safety, &inputs);
    if (was_active && !safety_is_active(&control->safety)) {
        control_clear_setpoints(control);
    }
    return following;
}

static int16_t rounded(float value)
{
    const float most = 32767.0f;
    const float nearest = value < 0.0f ? value - 0.5f : value + 0.5f;
    return (int16_t)(nearest < -most ? -most : (nearest > most ? most : nearest));
}

static void report_measured(struct control *control)
{
    const uint8_t joints = control->table->count;
    struct link_measured message = {.tick = control->tick, .rows = LINK_MEASURED_ROW_CONDITION + 1, .joints = joints};
    for (uint8_t i = 0; i < joints; i++) {
        const struct joint_measurement *measured = &control->measured[i];
        const float resolution = control->table->joints[i].resolution;
        message.values[LINK_MEASURED_ROW_POSITION * joints + i] = rounded(measured->position / resolution);
        message.values[LINK_MEASURED_ROW_CURRENT * joints + i] = rounded(1000.0f * measured->current);
        message.values[LINK_MEASURED_ROW_CONDITION * joints + i] = (int16_t)(measured->age | measured->flags << 8);
    }
    outbox_set_measured(&control->outbox, &message);
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
        .fault_joint = control->fault_joint,
        .joints = control->table->count,
    };
    for (uint8_t i = 0; i < control->table->count; i++) {
        telemetry.executed[i] = control->motion[i].position;
    }
    report_measured(control);
    outbox_add_telemetry(&control->outbox, &telemetry);
}

/* Whether a joint is farther from its setpoint than its acceleration limit makes up for within a tick. Less than that is
 * how the limits smooth setpoints that are rough from tick to tick, and no sign that they cannot be reached. */
static bool is_behind(const struct control *control, const struct setpoint *setpoint)
{
    const float steps = (float)control->servo_steps;
    for (uint8_t i = 0; i < control->table->count; i++) {
        const float wanted = (float)setpoint->counts[i] * control->table->joints[i].resolution;
        const float away = motion_inside(&control->limits[i], wanted) - control->motion[i].position;
        const float reach = control->limits[i].max_change * steps * steps;
        if (away > reach || away < -reach) {
            return true;
        }
    }
    return false;
}

static uint8_t execute_first_step(struct control *control, const struct setpoint *setpoint)
{
    const uint8_t held_back = begin_tick(control, setpoint);
    const unsigned saturating = LINK_TICK_FLAG_VELOCITY_LIMITED | LINK_TICK_FLAG_ACCELERATION_LIMITED;
    control->saturated = setpoint != NULL && (held_back & saturating) != 0 && is_behind(control, setpoint);
    const unsigned limited = control->limited | held_back;
    control->limited = 0;
    control->counters.limited_ticks += limited != 0 ? 1u : 0u;
    if (setpoint != NULL) {
        return (uint8_t)(limited | LINK_TICK_FLAG_EXECUTED);
    }
    const bool starved = control->safety.state == LINK_STATE_STARVED;
    control->counters.starved_ticks += starved ? 1u : 0u;
    return (uint8_t)(limited | (starved ? LINK_TICK_FLAG_STARVED : 0u));
}

static void execute_tick(struct control *control, uint32_t tick, uint32_t elapsed, uint64_t counter)
{
    const uint32_t missed = elapsed - 1u;
    control->counters.missed_ticks += missed;
    replay_missed(control, tick, missed);
    const struct setpoint *setpoint = setpoint_ring_at(&control->ring, tick);
    const bool following = advance_state(control, setpoint, elapsed);
    begin_relief(control);
    const struct setpoint *followed = following ? setpoint : NULL;
    unsigned flags = execute_first_step(control, followed);
    flags |= missed != 0 ? LINK_TICK_FLAG_TICKS_MISSED : 0u;
    control->tick = tick;
    report(control, counter, followed, (uint8_t)flags);
}

static void press_estop(struct control *control)
{
    const bool was_active = safety_is_active(&control->safety);
    safety_press_estop(&control->safety);
    if (was_active) {
        control_clear_setpoints(control);
    }
}

void control_servo(struct control *control, uint64_t counter, bool estop_pressed)
{
    const uint64_t step = (counter - control->epoch) / control->servo_period;
    const uint32_t tick = (uint32_t)(step / control->servo_steps);
    const uint32_t servo_step = (uint32_t)(step % control->servo_steps);
    const int32_t elapsed = wrapped_difference(tick, control->tick);
    if (elapsed < 0) {
        return;
    }
    if (estop_pressed) {
        press_estop(control);
    }
    if (elapsed > 0) {
        run_servo_steps(control, control->servo_steps - 1u);
        execute_tick(control, tick, (uint32_t)elapsed, counter);
    }
    run_servo_steps(control, servo_step);
}

void control_receive_byte(struct control *control, uint8_t byte)
{
    if (!byte_queue_push(&control->received, byte)) {
        control->receive_overruns++;
    }
}
