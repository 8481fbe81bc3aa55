/* CRC, COBS, the streaming decoder and the sequence window. */
#include "cmocka_suite.h"
#include "crc32.h"
#include "frame_decoder.h"
#include "frame_encoder.h"
#include "sequence_window.h"

static struct frame_decoder decoder;
static struct frame frame;

static int setup(void **state)
{
    (void)state;
    frame_decoder_init(&decoder);
    return 0;
}

static unsigned feed(const uint8_t *data, size_t size)
{
    unsigned frames = 0;
    for (size_t i = 0; i < size; i++) {
        frames += frame_decoder_push(&decoder, data[i], &frame) ? 1u : 0u;
    }
    return frames;
}

static void crc_has_the_published_check_value(void **state)
{
    (void)state;
    const uint8_t digits[] = "123456789";
    assert_int_equal(crc32_update(0, digits, 9), 0xCBF43926u);
    assert_int_equal(crc32_update(crc32_update(0, digits, 4), digits + 4, 5), 0xCBF43926u);
}

static void cobs_matches_the_examples_of_the_paper(void **state)
{
    (void)state;
    const struct {
        uint8_t plain[5];
        size_t size;
        uint8_t coded[6];
    } examples[] = {
        {{0}, 0, {1}},
        {{0}, 1, {1, 1}},
        {{0, 0}, 2, {1, 1, 1}},
        {{0x11, 0x22, 0x00, 0x33}, 4, {3, 0x11, 0x22, 2, 0x33}},
        {{0x11, 0, 0, 0}, 4, {2, 0x11, 1, 1, 1}},
    };
    for (size_t i = 0; i < sizeof examples / sizeof examples[0]; i++) {
        uint8_t out[8];
        assert_int_equal(cobs_encode(examples[i].plain, examples[i].size, out), examples[i].size + 1);
        assert_memory_equal(out, examples[i].coded, examples[i].size + 1);
    }
}

static void payloads_of_every_size_are_decoded_unchanged(void **state)
{
    (void)state;
    uint8_t payload[LINK_MAX_PAYLOAD + 1];
    uint8_t wire[FRAME_WIRE_SIZE];
    for (size_t size = 0; size <= LINK_MAX_PAYLOAD; size++) {
        for (size_t i = 0; i < size; i++) {
            payload[i] = (uint8_t)(i % 3 == 0 ? 0 : i * 31 + size);
        }
        const size_t length = frame_encode(0x42, (uint16_t)(size * 257), payload, size, wire);
        assert_int_equal(length, size + LINK_HEADER_SIZE + LINK_CRC_SIZE + 2);
        assert_int_equal(feed(wire, length), 1);
        assert_int_equal(frame.type, 0x42);
        assert_int_equal(frame.seq, (uint16_t)(size * 257));
        assert_int_equal(frame.size, size);
        assert_memory_equal(frame.payload, payload, size);
    }
    assert_int_equal(frame_encode(0x42, 0, payload, sizeof payload, wire), 0);
}

static void damage_is_counted_and_the_next_frame_is_decoded(void **state)
{
    (void)state;
    uint8_t wire[FRAME_WIRE_SIZE];
    const uint8_t payload[] = {1, 0, 2};
    const size_t length = frame_encode(7, 1, payload, sizeof payload, wire);
    uint8_t broken[FRAME_WIRE_SIZE];
    memcpy(broken, wire, length);
    broken[2] ^= 0x10;
    assert_int_equal(feed(broken, length), 0);
    assert_int_equal(decoder.crc_errors, 1);
    assert_int_equal(feed(wire + 3, length - 3), 0);
    assert_true(decoder.crc_errors + decoder.framing_errors == 2);
    assert_int_equal(feed(wire, length), 1);
}

static void an_endless_frame_is_one_framing_error(void **state)
{
    (void)state;
    const uint8_t zero = 0;
    for (unsigned i = 0; i < 5000; i++) {
        const uint8_t byte = 0xFF;
        assert_int_equal(feed(&byte, 1), 0);
    }
    assert_int_equal(feed(&zero, 1), 0);
    assert_int_equal(decoder.framing_errors, 1);
}

static void an_idle_line_is_no_error(void **state)
{
    (void)state;
    const uint8_t zeros[8] = {0};
    assert_int_equal(feed(zeros, sizeof zeros), 0);
    assert_int_equal(decoder.framing_errors + decoder.crc_errors, 0);
}

static void repeated_sequence_numbers_are_refused(void **state)
{
    (void)state;
    struct sequence_window window = {0};
    assert_true(sequence_window_accept(&window, 65534));
    assert_true(sequence_window_accept(&window, 65535));
    assert_false(sequence_window_accept(&window, 65535));
    assert_true(sequence_window_accept(&window, 2));
    assert_int_equal(window.gaps, 2);
    assert_true(sequence_window_accept(&window, 1));
    assert_false(sequence_window_accept(&window, 1));
    assert_true(sequence_window_accept(&window, 0));
    assert_false(sequence_window_accept(&window, 65534));
    assert_int_equal(window.duplicates, 3);
    assert_int_equal(window.gaps, 2);
}

static void a_sender_that_restarts_its_sequence_is_accepted(void **state)
{
    (void)state;
    struct sequence_window window = {0};
    assert_true(sequence_window_accept(&window, 1000));
    assert_true(sequence_window_accept(&window, 0));
    assert_true(sequence_window_accept(&window, 1));
    assert_int_equal(window.gaps, 0);
    sequence_window_restart(&window);
    assert_true(sequence_window_accept(&window, 1));
    assert_int_equal(window.duplicates, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc_has_the_published_check_value),
        cmocka_unit_test(cobs_matches_the_examples_of_the_paper),
        cmocka_unit_test_setup(payloads_of_every_size_are_decoded_unchanged, setup),
        cmocka_unit_test_setup(damage_is_counted_and_the_next_frame_is_decoded, setup),
        cmocka_unit_test_setup(an_endless_frame_is_one_framing_error, setup),
        cmocka_unit_test_setup(an_idle_line_is_no_error, setup),
        cmocka_unit_test(repeated_sequence_numbers_are_refused),
        cmocka_unit_test(a_sender_that_restarts_its_sequence_is_accepted),
    };
    return cmocka_run_group_tests_name("frames", tests, NULL, NULL);
}
