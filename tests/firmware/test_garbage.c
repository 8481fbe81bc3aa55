/* The whole controller under sanitizers, with random bytes, and with valid frames of random content. */
#include "cmocka_suite.h"
#include "frame_encoder.h"
#include "host_board.h"

enum { ROUNDS = 20000 };

static uint32_t seed;

static uint32_t draw(uint32_t below)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % below;
}

static int setup(void **state)
{
    (void)state;
    seed = 20260101u;
    host_reset(LINK_RESET_CAUSE_POWER_ON);
    return 0;
}

static void check_motion(const struct joint_motion *before)
{
    const struct control *control = host_control();
    for (uint8_t i = 0; i < control->table->count; i++) {
        const struct motion_limits *limits = &control->limits[i];
        const float change = control->motion[i].velocity - before[i].velocity;
        assert_true(control->motion[i].position >= limits->minimum);
        assert_true(control->motion[i].position <= limits->maximum);
        assert_true(change <= limits->max_change + 1e-6f && change >= -limits->max_change - 1e-6f);
    }
}

static void tick_and_poll(uint32_t tick)
{
    struct joint_motion before[LINK_MAX_JOINTS];
    static uint8_t sent[1 << 16];
    host_poll();
    for (uint32_t step = 0; step < host_control()->servo_steps; step++) {
        memcpy(before, host_control()->motion, sizeof before);
        host_servo(tick, step);
        check_motion(before);
    }
    (void)host_take_sent(sent, sizeof sent);
}

static void random_bytes_leave_the_controller_working(void **state)
{
    (void)state;
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        uint8_t noise[64];
        for (size_t i = 0; i < sizeof noise; i++) {
            noise[i] = (uint8_t)draw(draw(4) == 0 ? 3 : 256);
        }
        host_receive(noise, draw(sizeof noise + 1));
        tick_and_poll(round);
    }
    assert_int_equal(host_control()->counters.frames_received, 0);
    assert_int_equal(host_control()->safety.state, LINK_STATE_DISARMED);
}

static size_t random_payload(uint8_t type, uint32_t tick, uint8_t *payload)
{
    if (type == LINK_FRAGMENT_ID && draw(4) != 0) {
        struct link_fragment fragment = {.chunk_id = tick / 4 + draw(3),
                                         .first_tick = tick + draw(60) - 20,
                                         .step_count = 7,
                                         .fragment_index = 0,
                                         .fragment_count = 1,
                                         .steps = 7,
                                         .joints = host_control()->table->count};
        for (size_t i = 0; i < LINK_FRAGMENT_CAPACITY; i++) {
            fragment.values[i] = (int16_t)(draw(12000) - 1000);
        }
        return link_pack_fragment(&fragment, payload);
    }
    if (type == LINK_HELLO_ID) {
        const struct link_hello hello = {.schema_hash = LINK_SCHEMA_HASH + (draw(8) == 0)};
        return link_pack_hello(&hello, payload);
    }
    if (type == LINK_COMMAND_REQUEST_ID) {
        const uint8_t sensible = draw(2) == 0 ? LINK_COMMAND_ARM : LINK_COMMAND_CLEAR;
        const uint8_t number = draw(10) == 0 ? (uint8_t)draw(6) : sensible;
        const struct link_command_request request = {.nonce = tick, .command = number};
        return link_pack_command_request(&request, payload);
    }
    const size_t size = type == LINK_PING_ID ? 12 : draw(LINK_MAX_PAYLOAD + 1);
    for (size_t i = 0; i < size; i++) {
        payload[i] = (uint8_t)draw(256);
    }
    return size;
}

static void valid_frames_of_random_content_never_break_a_limit(void **state)
{
    (void)state;
    const uint8_t types[] = {LINK_HELLO_ID, LINK_PING_ID, LINK_PING_ID, LINK_COMMAND_REQUEST_ID,
                             LINK_FRAGMENT_ID, LINK_FRAGMENT_ID, LINK_FRAGMENT_ID, LINK_TELEMETRY_ID};
    unsigned running = 0;
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        uint8_t payload[LINK_MAX_PAYLOAD];
        uint8_t wire[FRAME_WIRE_SIZE];
        const uint8_t type = types[draw(sizeof types)];
        const size_t size = random_payload(type, round, payload);
        host_receive(wire, frame_encode(type, (uint16_t)round, payload, size, wire));
        tick_and_poll(round);
        running += host_control()->safety.state == LINK_STATE_RUNNING ? 1u : 0u;
    }
    assert_true(running > 100); /* otherwise this test checks nothing */
}

static void a_blocked_uart_drops_the_oldest_telemetry_and_keeps_replies(void **state)
{
    (void)state;
    static uint8_t sent[1 << 16];
    const struct link_ping ping = {.ping_id = 77};
    uint8_t payload[16];
    uint8_t wire[FRAME_WIRE_SIZE];
    host_limit_sending(10);
    for (uint32_t tick = 1; tick <= 30; tick++) {
        host_tick(tick);
        host_poll();
    }
    host_receive(wire, frame_encode(LINK_PING_ID, 0, payload, link_pack_ping(&ping, payload), wire));
    host_poll();
    host_limit_sending(sizeof sent);
    host_poll();
    struct frame_decoder decoder;
    struct frame frame;
    uint32_t ticks[8];
    uint32_t measured[8];
    size_t telemetry = 0;
    size_t measurements = 0;
    size_t pong_after = 8;
    frame_decoder_init(&decoder);
    const size_t size = host_take_sent(sent, sizeof sent);
    for (size_t i = 0; i < size; i++) {
        if (frame_decoder_push(&decoder, sent[i], &frame)) {
            if (frame.type == LINK_TELEMETRY_ID) {
                assert_true(telemetry < 8);
                ticks[telemetry++] = (uint32_t)link_get(frame.payload, 4);
            } else if (frame.type == LINK_MEASURED_ID) {
                assert_true(measurements < 8);
                measured[measurements++] = (uint32_t)link_get(frame.payload, 4);
            } else if (frame.type == LINK_PONG_ID) {
                pong_after = telemetry;
            }
        }
    }
    assert_int_equal(decoder.crc_errors + decoder.framing_errors, 0);
    assert_int_equal(measurements, 2);
    assert_int_equal(measured[0], 1); /* was being sent when the line blocked */
    assert_int_equal(measured[1], 30);
    assert_int_equal(telemetry, 4);
    assert_int_equal(ticks[0], 27);
    assert_int_equal(ticks[3], 30);
    assert_int_equal(pong_after, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(random_bytes_leave_the_controller_working, setup),
        cmocka_unit_test_setup(valid_frames_of_random_content_never_break_a_limit, setup),
        cmocka_unit_test_setup(a_blocked_uart_drops_the_oldest_telemetry_and_keeps_replies, setup),
    };
    return cmocka_run_group_tests_name("garbage", tests, NULL, NULL);
}
