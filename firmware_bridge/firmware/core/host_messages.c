/* What the main loop does with the messages of the host. Malformed payloads and unknown types inside an intact frame
 * are counted as framing errors and get no answer. */
#include "board.h"
#include "control.h"
#include "start_checks.h"

/* A setpoint farther outside its joint's range than this part of it is a mistake; nearer, it is clamped. */
static const float RANGE_MARGIN = 0.1f;

static void send_counters(struct control *control)
{
    struct link_counters counters = control->counters;
    counters.crc_errors = control->decoder.crc_errors;
    counters.framing_errors += control->decoder.framing_errors;
    counters.duplicate_frames = control->window.duplicates;
    counters.sequence_gaps = control->window.gaps;
    counters.receive_overruns = control->receive_overruns;
    uint8_t payload[OUTBOX_REPLY_PAYLOAD];
    outbox_add_reply(&control->outbox, LINK_COUNTERS_ID, payload, link_pack_counters(&counters, payload));
}

/* The temperature of every joint's servos and the voltage at them. */
static void send_health(struct control *control)
{
    const uint8_t joints = control->table->count;
    struct link_health health = {.tick = control->tick, .rows = LINK_HEALTH_ROW_VOLTAGE + 1, .joints = joints};
    for (uint8_t i = 0; i < joints; i++) {
        const uint32_t masked = board_mask_servo();
        const struct joint_measurement measured = control->measured[i];
        board_unmask_servo(masked);
        health.values[LINK_HEALTH_ROW_TEMPERATURE * joints + i] = measured.temperature;
        health.values[LINK_HEALTH_ROW_VOLTAGE * joints + i] = (uint8_t)(10.0f * measured.volts + 0.5f);
    }
    uint8_t payload[OUTBOX_REPLY_PAYLOAD];
    outbox_add_reply(&control->outbox, LINK_HEALTH_ID, payload, link_pack_health(&health, payload));
}

static bool handle_hello(struct control *control, const struct frame *frame)
{
    struct link_hello hello;
    if (!link_unpack_hello(&hello, frame->payload, frame->size)) {
        return false;
    }
    const uint32_t masked = board_mask_servo();
    control->safety.peer_known = hello.schema_hash == LINK_SCHEMA_HASH;
    board_unmask_servo(masked);
    const struct link_welcome welcome = {
        .schema_hash = LINK_SCHEMA_HASH,
        .limits_hash = joint_table_hash(control->table),
        .tick_period_us = 1000000u / control->table->control_hz,
        .counter_hz = control->counter_hz,
        .ring_depth = LINK_RING_DEPTH,
        .receive_window = BYTE_QUEUE_WINDOW,
        .joints = control->table->count,
        .reset_cause = (uint8_t)control->reset_cause,
    };
    uint8_t payload[OUTBOX_REPLY_PAYLOAD];
    outbox_add_reply(&control->outbox, LINK_WELCOME_ID, payload, link_pack_welcome(&welcome, payload));
    return true;
}

static bool handle_ping(struct control *control, const struct frame *frame)
{
    struct link_ping ping;
    if (!link_unpack_ping(&ping, frame->payload, frame->size)) {
        return false;
    }
    control->heartbeat_heard = true;
    const struct link_pong pong = {
        .ping_id = ping.ping_id,
        .host_time_us = ping.host_time_us,
        .counter = board_counter(),
        .tick = control->tick,
    };
    uint8_t payload[OUTBOX_REPLY_PAYLOAD];
    outbox_add_reply(&control->outbox, LINK_PONG_ID, payload, link_pack_pong(&pong, payload));
    return true;
}

/* What a command that was accepted does to the servos. Servos that lost their torque get it back only with the next ARM,
 * and then where they are. */
static void change_torque(struct control *control, uint8_t command, bool after_servo_error)
{
    if (command == LINK_COMMAND_ARM) {
        control->torque = TORQUE_ON;
        guards_restart(&control->guards, control->table, control->motion);
    } else if (command == LINK_COMMAND_RELEASE) {
        control->torque = TORQUE_OFF;
    } else if (command == LINK_COMMAND_CLEAR && after_servo_error) {
        control->torque = TORQUE_UNCHANGED;
    }
    if (command == LINK_COMMAND_ARM || command == LINK_COMMAND_CLEAR) {
        control->fault_joint = LINK_NO_JOINT;
        control->relieving = false;
    }
}

/* Executes a command with the servo interrupt masked. A command that starts or stops the arm removes all setpoints.
 * `*joint`: the one that speaks against ARM, or LINK_NO_JOINT. */
static uint8_t execute_command(struct control *control, uint8_t command, uint8_t *joint)
{
    const uint32_t masked = board_mask_servo();
    const bool was_active = safety_is_active(&control->safety);
    const bool after_servo_error = (control->safety.faults & LINK_FAULT_SERVO_ERROR) != 0;
    const struct safety_conditions conditions = {
        .at_rest = control_is_at_rest(control),
        .estop_pressed = board_estop_pressed(),
        .measured = start_check_joints(control->table, control->measured, joint),
    };
    const enum link_command_result result = safety_command(&control->safety, command, &conditions);
    const bool is_about_joint = command == LINK_COMMAND_ARM && result == conditions.measured;
    *joint = is_about_joint ? *joint : LINK_NO_JOINT;
    if (result == LINK_COMMAND_RESULT_OK) {
        change_torque(control, command, after_servo_error);
    }
    const bool changed = was_active != safety_is_active(&control->safety);
    if (changed) {
        control_clear_setpoints(control);
    }
    board_unmask_servo(masked);
    if (changed) {
        chunk_assembly_reset(&control->assembly);
    }
    return (uint8_t)result;
}

/* A command that is sent again because its reply was lost is answered again, not executed again; also after
 * another HELLO. The first nonce of a host may be any number. */
static bool is_answered(const struct answered_command *answered, const struct link_command_request *request)
{
    return answered->valid && answered->nonce == request->nonce && answered->command == request->command &&
           request->command != LINK_COMMAND_ESTOP;
}

static bool handle_command(struct control *control, const struct frame *frame)
{
    struct link_command_request request;
    if (!link_unpack_command_request(&request, frame->payload, frame->size)) {
        return false;
    }
    struct answered_command *answered = &control->answered;
    if (!is_answered(answered, &request)) {
        answered->result = execute_command(control, request.command, &answered->joint);
        answered->nonce = request.nonce;
        answered->command = request.command;
        answered->valid = true;
    }
    const struct link_command_reply reply = {
        .nonce = request.nonce,
        .command = request.command,
        .result = answered->result,
        .state = (uint8_t)control->safety.state,
        .joint = answered->joint,
    };
    uint8_t payload[OUTBOX_REPLY_PAYLOAD];
    outbox_add_reply(&control->outbox, LINK_COMMAND_REPLY_ID, payload, link_pack_command_reply(&reply, payload));
    return true;
}

/* The first joint with a setpoint outside its range, or LINK_NO_JOINT. */
static uint8_t joint_out_of_range(const struct joint_table *table, const struct chunk *chunk)
{
    for (uint8_t i = 0; i < table->count; i++) {
        const struct joint *joint = &table->joints[i];
        const float margin = RANGE_MARGIN * (joint->maximum - joint->minimum);
        const int32_t lowest = (int32_t)((joint->minimum - margin) / joint->resolution);
        const int32_t highest = (int32_t)((joint->maximum + margin) / joint->resolution);
        for (uint8_t step = 0; step < chunk->steps; step++) {
            if (chunk->counts[step][i] < lowest || chunk->counts[step][i] > highest) {
                return i;
            }
        }
    }
    return LINK_NO_JOINT;
}

/* Enters the chunk, with the servo interrupt masked. While the arm is ARMED, it is at rest. */
static enum link_chunk_result enter_chunk(struct control *control, uint8_t *joint)
{
    const struct chunk *chunk = &control->assembly.chunk;
    if (!safety_is_active(&control->safety)) {
        return LINK_CHUNK_RESULT_NOT_ARMED;
    }
    if (control->safety.state == LINK_STATE_ARMED) {
        *joint = start_check_reach(control->table, control->measured, chunk, control->tick);
        if (*joint != LINK_NO_JOINT) {
            return LINK_CHUNK_RESULT_OUT_OF_REACH;
        }
    }
    return setpoint_ring_commit(&control->ring, chunk, control->tick);
}

/* `*tick`: the one after which the chunk was entered or refused. */
static enum link_chunk_result commit(struct control *control, uint8_t *joint, uint32_t *tick)
{
    *joint = joint_out_of_range(control->table, &control->assembly.chunk);
    if (*joint != LINK_NO_JOINT) {
        *tick = control->tick;
        return LINK_CHUNK_RESULT_OUT_OF_RANGE;
    }
    const uint32_t masked = board_mask_servo();
    const enum link_chunk_result result = enter_chunk(control, joint);
    *tick = control->tick;
    board_unmask_servo(masked);
    return result;
}

static void send_chunk_reply(struct control *control, const struct link_chunk_reply *reply)
{
    uint8_t payload[OUTBOX_REPLY_PAYLOAD];
    outbox_add_reply(&control->outbox, LINK_CHUNK_REPLY_ID, payload, link_pack_chunk_reply(reply, payload));
}

static void count_result(struct control *control, enum link_chunk_result result)
{
    if (result == LINK_CHUNK_RESULT_ACCEPTED) {
        control->counters.chunks_accepted++;
    } else {
        control->counters.chunks_refused++;
    }
}

static bool handle_fragment(struct control *control, const struct frame *frame)
{
    struct link_fragment fragment;
    struct link_chunk_reply reply = {.result = LINK_CHUNK_RESULT_NOT_ARMED, .joint = LINK_NO_JOINT};
    if (!link_unpack_fragment(&fragment, frame->payload, frame->size)) {
        return false;
    }
    reply.chunk_id = fragment.chunk_id;
    reply.tick = control->tick;
    enum assembly_event event = ASSEMBLY_REPLY;
    if (safety_is_active(&control->safety)) {
        event = chunk_assembly_add(&control->assembly, &fragment, control->table->count, control->tick, &reply);
    }
    if (event == ASSEMBLY_COMPLETE) {
        uint8_t joint;
        uint32_t tick;
        const enum link_chunk_result result = commit(control, &joint, &tick);
        chunk_assembly_finish(&control->assembly, result, joint, tick, &reply);
        count_result(control, result);
    }
    if (event != ASSEMBLY_QUIET) {
        send_chunk_reply(control, &reply);
    }
    return true;
}

static void dispatch(struct control *control, const struct frame *frame)
{
    bool handled = false;
    switch (frame->type) {
    case LINK_HELLO_ID:
        handled = handle_hello(control, frame);
        break;
    case LINK_PING_ID:
        handled = handle_ping(control, frame);
        break;
    case LINK_COMMAND_REQUEST_ID:
        handled = handle_command(control, frame);
        break;
    case LINK_FRAGMENT_ID:
        handled = handle_fragment(control, frame);
        break;
    default:
        break;
    }
    if (!handled) {
        control->counters.framing_errors++;
    }
}

static void receive_frame(struct control *control, const struct frame *frame)
{
    if (frame->type == LINK_HELLO_ID) {
        sequence_window_restart(&control->window); /* a host that starts counts from any number */
    }
    if (sequence_window_accept(&control->window, frame->seq)) {
        control->counters.frames_received++;
        dispatch(control, frame);
    }
}

void control_poll(struct control *control)
{
    uint8_t byte;
    struct frame frame;
    while (byte_queue_pop(&control->received, &byte)) {
        if (frame_decoder_push(&control->decoder, byte, &frame)) {
            receive_frame(control, &frame);
        }
    }
    struct link_chunk_reply reply;
    if (chunk_assembly_remind(&control->assembly, control->tick, &reply)) {
        send_chunk_reply(control, &reply);
    }
    if (control->tick - control->counters_tick >= control->table->control_hz) {
        control->counters_tick = control->tick;
        send_counters(control);
        send_health(control);
    }
    outbox_send(&control->outbox);
}
