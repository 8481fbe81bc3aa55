/* What the main loop does with the messages of the host. Malformed payloads and unknown types inside an intact frame
 * are counted as framing errors and get no answer. */
#include "board.h"
#include "control.h"

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

/* Executes a command with the servo interrupt masked. A command that starts or stops the arm removes all setpoints. */
static uint8_t execute_command(struct control *control, uint8_t command)
{
    const uint32_t masked = board_mask_servo();
    const bool was_active = safety_is_active(&control->safety);
    const bool at_rest = control_is_at_rest(control);
    const enum link_command_result result =
        safety_command(&control->safety, command, at_rest, board_estop_pressed());
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
        answered->result = execute_command(control, request.command);
        answered->nonce = request.nonce;
        answered->command = request.command;
        answered->valid = true;
    }
    const struct link_command_reply reply = {
        .nonce = request.nonce,
        .command = request.command,
        .result = answered->result,
        .state = (uint8_t)control->safety.state,
    };
    uint8_t payload[OUTBOX_REPLY_PAYLOAD];
    outbox_add_reply(&control->outbox, LINK_COMMAND_REPLY_ID, payload, link_pack_command_reply(&reply, payload));
    return true;
}

static bool is_within_range(const struct joint_table *table, const struct chunk *chunk)
{
    for (uint8_t i = 0; i < table->count; i++) {
        const struct joint *joint = &table->joints[i];
        const float margin = RANGE_MARGIN * (joint->maximum - joint->minimum);
        const int32_t lowest = (int32_t)((joint->minimum - margin) / joint->resolution);
        const int32_t highest = (int32_t)((joint->maximum + margin) / joint->resolution);
        for (uint8_t step = 0; step < chunk->steps; step++) {
            if (chunk->counts[step][i] < lowest || chunk->counts[step][i] > highest) {
                return false;
            }
        }
    }
    return true;
}

static enum link_chunk_result commit(struct control *control)
{
    if (!is_within_range(control->table, &control->assembly.chunk)) {
        return LINK_CHUNK_RESULT_OUT_OF_RANGE;
    }
    enum link_chunk_result result = LINK_CHUNK_RESULT_NOT_ARMED;
    const uint32_t masked = board_mask_servo();
    if (safety_is_active(&control->safety)) {
        result = setpoint_ring_commit(&control->ring, &control->assembly.chunk, control->tick);
    }
    board_unmask_servo(masked);
    return result;
}

static void send_chunk_reply(struct control *control, struct link_chunk_reply *reply)
{
    reply->tick = control->tick;
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
    struct link_chunk_reply reply = {.result = LINK_CHUNK_RESULT_NOT_ARMED};
    if (!link_unpack_fragment(&fragment, frame->payload, frame->size)) {
        return false;
    }
    reply.chunk_id = fragment.chunk_id;
    enum assembly_event event = ASSEMBLY_REPLY;
    if (safety_is_active(&control->safety)) {
        event = chunk_assembly_add(&control->assembly, &fragment, control->table->count, control->tick, &reply);
    }
    if (event == ASSEMBLY_COMPLETE) {
        const enum link_chunk_result result = commit(control);
        chunk_assembly_finish(&control->assembly, result, &reply);
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
    }
    outbox_send(&control->outbox);
}
