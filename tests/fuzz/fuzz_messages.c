/* The whole core against any conversation: frames with the right CRC and any content, raw bytes, late ticks,
 * a UART that accepts no bytes, the e-stop pin, servos that measure anything.
 *
 * The input is a list of actions, one byte each, followed by the data of the action. For any input, every frame that
 * the firmware sends is valid, every position is within its limits, and only RUNNING executes a chunk. */
#include <string.h>

#include "frame_encoder.h"
#include "fuzz_target.h"
#include "host_board.h"

enum { LONGEST_CONVERSATION = 4096, MARGIN_TICKS = 64 };

struct script {
    const uint8_t *at;
    const uint8_t *end;
};

static struct frame_decoder host_decoder;
static uint32_t tick;
static uint32_t chunk_id;
static uint16_t seq;

static uint8_t next_byte(struct script *script)
{
    return script->at < script->end ? *script->at++ : 0;
}

static size_t next_bytes(struct script *script, uint8_t *out, size_t wanted)
{
    const size_t left = (size_t)(script->end - script->at);
    const size_t size = wanted < left ? wanted : left;
    memcpy(out, script->at, size);
    script->at += size;
    return size;
}

static void check_telemetry(const struct link_telemetry *telemetry)
{
    require(telemetry->joints == joint_table.count && telemetry->ring_level <= LINK_RING_DEPTH);
    require(telemetry->state <= LINK_STATE_ESTOP);
    require(telemetry->chunk_id == 0 || telemetry->state == LINK_STATE_RUNNING);
    for (uint8_t i = 0; i < telemetry->joints; i++) {
        require(telemetry->executed[i] >= joint_table.joints[i].minimum);
        require(telemetry->executed[i] <= joint_table.joints[i].maximum);
    }
}

static void check_reply(const struct frame *frame)
{
    struct link_telemetry telemetry;
    struct link_chunk_reply reply;
    if (frame->type == LINK_TELEMETRY_ID) {
        require(link_unpack_telemetry(&telemetry, frame->payload, frame->size));
        check_telemetry(&telemetry);
    } else if (frame->type == LINK_CHUNK_REPLY_ID) {
        require(link_unpack_chunk_reply(&reply, frame->payload, frame->size));
        require(reply.result <= LINK_CHUNK_RESULT_OUT_OF_REACH);
    } else {
        require(frame->type >= LINK_WELCOME_ID && frame->type <= LINK_HEALTH_ID);
    }
}

static void take_sent(void)
{
    static uint8_t sent[1 << 16];
    struct frame frame;
    const size_t size = host_take_sent(sent, sizeof sent);
    for (size_t i = 0; i < size; i++) {
        if (frame_decoder_push(&host_decoder, sent[i], &frame)) {
            check_reply(&frame);
        }
    }
    require(host_decoder.crc_errors == 0 && host_decoder.framing_errors == 0);
}

static void send(uint8_t type, const uint8_t *payload, size_t size)
{
    uint8_t frame[FRAME_WIRE_SIZE];
    host_receive(frame, frame_encode(type, seq++, payload, size, frame));
}

static void send_any(struct script *script)
{
    uint8_t payload[LINK_MAX_PAYLOAD];
    const uint8_t type = next_byte(script);
    const size_t wanted = next_byte(script) % (LINK_MAX_PAYLOAD + 1u);
    const size_t size = next_bytes(script, payload, wanted);
    send(type, payload, size);
}

static void send_greeting(void)
{
    uint8_t payload[LINK_MAX_PAYLOAD];
    const struct link_hello hello = {.schema_hash = LINK_SCHEMA_HASH};
    send(LINK_HELLO_ID, payload, link_pack_hello(&hello, payload));
}

static void send_ping(void)
{
    uint8_t payload[LINK_MAX_PAYLOAD];
    const struct link_ping ping = {.ping_id = tick};
    send(LINK_PING_ID, payload, link_pack_ping(&ping, payload));
}

static void send_command(struct script *script)
{
    uint8_t payload[LINK_MAX_PAYLOAD];
    const struct link_command_request request = {.nonce = tick, .command = next_byte(script)};
    send(LINK_COMMAND_REQUEST_ID, payload, link_pack_command_request(&request, payload));
}

/* A fragment of the right number of joints: the rest of its header, and a value for all, come from the script. */
static void send_fragment(struct script *script)
{
    uint8_t payload[LINK_MAX_PAYLOAD];
    chunk_id += next_byte(script) % 3u;
    struct link_fragment fragment = {.chunk_id = chunk_id,
                                     .first_tick = tick + next_byte(script) - MARGIN_TICKS,
                                     .observed_tick = tick,
                                     .step_count = next_byte(script),
                                     .fragment_index = next_byte(script),
                                     .fragment_count = next_byte(script),
                                     .first_step = next_byte(script),
                                     .steps = (uint8_t)(next_byte(script) % 8u),
                                     .joints = joint_table.count};
    const int16_t value = (int16_t)(next_byte(script) | next_byte(script) << 8u);
    for (size_t i = 0; i < LINK_FRAGMENT_CAPACITY; i++) {
        fragment.values[i] = value;
    }
    const size_t size = link_pack_fragment(&fragment, payload);
    send(LINK_FRAGMENT_ID, payload, size);
}

static void send_raw(struct script *script)
{
    uint8_t data[255];
    host_receive(data, next_bytes(script, data, next_byte(script)));
}

/* What one joint's servos measure from now on: any position in and around its range, any current, volts and flags. */
static void measure(struct script *script)
{
    const uint8_t joint = (uint8_t)(next_byte(script) % joint_table.count);
    const struct joint *limits = &joint_table.joints[joint];
    const float share = (float)next_byte(script) / 200.0f - 0.1f;
    const struct joint_measurement measured = {
        .position = limits->minimum + share * (limits->maximum - limits->minimum),
        .current = (float)(int8_t)next_byte(script) / 25.0f,
        .volts = (float)next_byte(script) / 10.0f,
        .temperature = next_byte(script),
        .flags = next_byte(script) & 0x7Fu,
        .age = next_byte(script),
    };
    host_measure(joint, &measured);
}

static void run_ticks(struct script *script)
{
    const uint8_t how = next_byte(script);
    const uint32_t late = how >= 0xF0u ? how - 0xEFu : 1u;
    for (uint8_t i = 0; i <= how % 4u; i++) {
        tick += late;
        host_tick(tick);
        host_poll();
    }
}

static void apply_next_action(struct script *script)
{
    switch (next_byte(script) % 11u) {
    case 0:
        send_any(script);
        break;
    case 1:
        send_greeting();
        break;
    case 2:
        send_ping();
        break;
    case 3:
        send_command(script);
        break;
    case 4:
        send_fragment(script);
        break;
    case 5:
        send_raw(script);
        break;
    case 6:
        run_ticks(script);
        break;
    case 7:
        host_press_estop(next_byte(script) % 4u == 0);
        break;
    case 8:
        seq = (uint16_t)(seq + (int8_t)next_byte(script));
        break;
    case 9:
        measure(script);
        break;
    default:
        host_limit_sending(next_byte(script) * 16u);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct script script = {data, data + (size < LONGEST_CONVERSATION ? size : LONGEST_CONVERSATION)};
    tick = 0;
    chunk_id = 1;
    seq = 0;
    frame_decoder_init(&host_decoder);
    host_reset(next_byte(&script) % 4u);
    while (script.at < script.end) {
        apply_next_action(&script);
        host_poll();
        take_sent();
    }
    host_limit_sending(SIZE_MAX);
    host_tick(tick + 1u);
    host_poll();
    take_sent();
    return 0;
}
