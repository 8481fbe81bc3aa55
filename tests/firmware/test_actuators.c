/* Positions in the units of servos, and Dynamixel packets against those in the vendor's e-manual. */
#include <math.h>

#include "cmocka_suite.h"
#include "dynamixel_protocol.h"
#include "servo_units.h"

static const struct joint ANGLE = {.unit = "rad", .minimum = -1.0f, .maximum = 3.0f};

static void pulses_span_the_range_of_the_joint(void **state)
{
    (void)state;
    assert_int_equal(servo_pulse_us(&ANGLE, -1.0f), 1000);
    assert_int_equal(servo_pulse_us(&ANGLE, 1.0f), 1500);
    assert_int_equal(servo_pulse_us(&ANGLE, 3.0f), 2000);
    assert_int_equal(servo_pulse_us(&ANGLE, 1e30f), 2000);
    assert_int_equal(servo_pulse_us(&ANGLE, -1e30f), 1000);
    assert_int_equal(servo_pulse_us(&ANGLE, NAN), 1000);
}

static void counts_are_zero_and_counts_per_unit(void **state)
{
    (void)state;
    const struct servo angle = {.zero = 2048.0f, .per_unit = 651.8986f, .current_unit = 0.00269f};
    const struct servo reversed = {.zero = 3000.0f, .per_unit = -1000.0f, .current_unit = 0.001f};
    assert_int_equal(servo_count_at(&angle, 0.0f), 2048);
    assert_int_equal(servo_count_at(&angle, 1.5707963f), 3072);
    assert_int_equal(servo_count_at(&angle, -4.71238898f), -1024);
    assert_int_equal(servo_count_at(&reversed, 0.5f), 2500);
    assert_int_equal(servo_count_at(&angle, 1e30f), 1048575);
    assert_int_equal(servo_count_at(&angle, -1e30f), -1048575);
    for (int32_t count = -5000; count < 5000; count += 7) {
        assert_int_equal(servo_count_at(&angle, servo_position_at(&angle, count)), count);
        assert_int_equal(servo_count_at(&reversed, servo_position_at(&reversed, count)), count);
    }
    assert_float_equal(servo_current_at(&angle, -100), -0.269f, 1e-6f);
    assert_float_equal(servo_current_at(&reversed, -100), 0.1f, 1e-6f);
}

static void check(const uint8_t *expected, size_t size, uint8_t id, uint8_t instruction, const uint8_t *parameters)
{
    uint8_t packet[DYNAMIXEL_LONGEST];
    assert_int_equal(dynamixel_packet(id, instruction, parameters, size - 10, packet), size);
    assert_memory_equal(packet, expected, size);
}

static void packets_are_those_of_the_manual(void **state)
{
    (void)state;
    const uint8_t ping[] = {0xFF, 0xFF, 0xFD, 0x00, 0x01, 0x03, 0x00, 0x01, 0x19, 0x4E};
    const uint8_t read[] = {0xFF, 0xFF, 0xFD, 0x00, 0x01, 0x07, 0x00, 0x02, 0x84, 0x00, 0x04, 0x00, 0x1D, 0x15};
    const uint8_t write[] = {0xFF, 0xFF, 0xFD, 0x00, 0x01, 0x09, 0x00, 0x03,
                             0x74, 0x00, 0x00, 0x02, 0x00, 0x00, 0xCA, 0x89};
    const uint8_t sync_read[] = {0xFF, 0xFF, 0xFD, 0x00, 0xFE, 0x09, 0x00, 0x82,
                                 0x84, 0x00, 0x04, 0x00, 0x01, 0x02, 0xCE, 0xFA};
    const uint8_t sync_write[] = {0xFF, 0xFF, 0xFD, 0x00, 0xFE, 0x11, 0x00, 0x83, 0x74, 0x00, 0x04, 0x00,
                                  0x01, 0x96, 0x00, 0x00, 0x00, 0x02, 0xAA, 0x00, 0x00, 0x00, 0x82, 0x87};
    check(ping, sizeof ping, 1, DYNAMIXEL_PING, NULL);
    check(read, sizeof read, 1, DYNAMIXEL_READ, read + 8);
    check(write, sizeof write, 1, DYNAMIXEL_WRITE, write + 8);
    check(sync_read, sizeof sync_read, DYNAMIXEL_BROADCAST, DYNAMIXEL_SYNC_READ, sync_read + 8);
    uint8_t packet[DYNAMIXEL_LONGEST];
    const uint8_t ids[] = {1, 2};
    const int32_t goals[] = {150, 170};
    assert_int_equal(dynamixel_sync_write(116, 4, ids, goals, 2, packet), sizeof sync_write);
    assert_memory_equal(packet, sync_write, sizeof sync_write);
    assert_int_equal(dynamixel_sync_read(DYNAMIXEL_SYNC_READ, 132, 4, ids, 2, packet), sizeof sync_read);
    assert_memory_equal(packet, sync_read, sizeof sync_read);
    const uint8_t fast[] = {0xFF, 0xFF, 0xFD, 0x00, 0xFE, 0x0A, 0x00, 0x8A, 0x84, 0x00, 0x04, 0x00,
                            0x03, 0x07, 0x04, 0x20, 0xF2};
    assert_int_equal(dynamixel_sync_read(DYNAMIXEL_FAST_SYNC_READ, 132, 4, fast + 12, 3, packet), sizeof fast);
    assert_memory_equal(packet, fast, sizeof fast);
}

static struct dynamixel_receiver receiver;
static struct dynamixel_status status;
static uint8_t content[DYNAMIXEL_LONGEST]; /* the data of `status` */

static int setup(void **state)
{
    (void)state;
    dynamixel_reset(&receiver);
    return 0;
}

static unsigned feed(const uint8_t *data, size_t size)
{
    unsigned answers = 0;
    for (size_t i = 0; i < size; i++) {
        const bool may_be_complete = dynamixel_receive(&receiver, data[i]);
        while (may_be_complete && dynamixel_next(&receiver, 4, &status)) {
            memcpy(content, status.data, status.size);
            answers++;
        }
    }
    return answers;
}

static const uint8_t PING_ANSWER[] = {0xFF, 0xFF, 0xFD, 0x00, 0x01, 0x07, 0x00,
                                      0x55, 0x00, 0x06, 0x04, 0x26, 0x65, 0x5D};
static const uint8_t READ_ANSWER[] = {0xFF, 0xFF, 0xFD, 0x00, 0x01, 0x08, 0x00, 0x55,
                                      0x00, 0xA6, 0x00, 0x00, 0x00, 0x8C, 0xC0};

static void status_packets_are_those_of_the_manual(void **state)
{
    (void)state;
    assert_int_equal(feed(PING_ANSWER, sizeof PING_ANSWER), 1);
    assert_int_equal(status.id, 1);
    assert_int_equal(status.error, 0);
    assert_int_equal(status.size, 3);
    assert_memory_equal(content, PING_ANSWER + 9, 3);
    assert_int_equal(feed(READ_ANSWER, sizeof READ_ANSWER), 1);
    assert_int_equal(status.size, 4);
    assert_int_equal(content[0], 0xA6);
}

static void status_packets_are_found_between_noise_and_instructions(void **state)
{
    (void)state;
    const uint8_t noise[] = {0x00, 0xFF, 0xFD, 0xFF, 0xFF, 0xFF};
    uint8_t packet[DYNAMIXEL_LONGEST];
    assert_int_equal(feed(noise, sizeof noise), 0);
    assert_int_equal(feed(PING_ANSWER, sizeof PING_ANSWER), 1); /* after one FF too many */
    assert_int_equal(feed(packet, dynamixel_packet(1, DYNAMIXEL_PING, NULL, 0, packet)), 0); /* our own echo */
    assert_int_equal(feed(READ_ANSWER, sizeof READ_ANSWER), 1);
    const uint8_t ids[] = {1, 2, 3};
    const int32_t goals[] = {1, 2, 3};
    assert_int_equal(feed(packet, dynamixel_sync_write(116, 4, ids, goals, 3, packet)), 0); /* longer than the answer */
    assert_int_equal(feed(READ_ANSWER, sizeof READ_ANSWER), 1);
}

static void every_flipped_bit_is_detected_and_the_next_packet_is_found(void **state)
{
    (void)state;
    for (size_t bit = 0; bit < 8 * sizeof READ_ANSWER; bit++) {
        uint8_t broken[sizeof READ_ANSWER];
        memcpy(broken, READ_ANSWER, sizeof broken);
        broken[bit / 8] ^= (uint8_t)(1u << bit % 8);
        setup(NULL);
        assert_int_equal(feed(broken, sizeof broken), 0);
        unsigned answers = 0;
        for (unsigned i = 0; i < 40 && answers == 0; i++) { /* a length that is too great waits for so many bytes */
            answers = feed(READ_ANSWER, sizeof READ_ANSWER);
        }
        assert_true(answers > 0);
        assert_int_equal(status.size, 4);
    }
}

static void servos_answer_together_as_in_the_manual(void **state)
{
    (void)state;
    const uint8_t together[] = {0xFF, 0xFF, 0xFD, 0x00, 0xFE, 0x19, 0x00, 0x55, 0x00, 0x03, 0xA6,
                                0x00, 0x00, 0x00, 0x84, 0x08, 0x00, 0x07, 0x1F, 0x08, 0x00, 0x00,
                                0x16, 0xCA, 0x00, 0x04, 0xFF, 0x03, 0x00, 0x00, 0xD1, 0x9E};
    const uint8_t ids[] = {3, 7, 4};
    const int32_t positions[] = {166, 2079, 1023};
    unsigned answers = 0;
    for (size_t i = 0; i < sizeof together; i++) {
        (void)dynamixel_receive(&receiver, together[i]);
        while (dynamixel_next(&receiver, 4, &status)) {
            assert_true(i == sizeof together - 1 && answers < 3);
            assert_int_equal(status.id, ids[answers]);
            assert_int_equal(status.data[0] | status.data[1] << 8, positions[answers]);
            answers++;
        }
    }
    assert_int_equal(answers, 3);
    uint8_t broken[sizeof together];
    memcpy(broken, together, sizeof broken);
    broken[10] ^= 1u;
    assert_int_equal(feed(broken, sizeof broken), 0);
    assert_int_equal(feed(READ_ANSWER, sizeof READ_ANSWER), 1);
}

static void parameters_that_contain_a_header_are_stuffed_and_restored(void **state)
{
    (void)state;
    const uint8_t sent[] = {0x00, 0xFF, 0xFF, 0xFD, 0xFF, 0xFF, 0xFD, 0x01};
    uint8_t packet[DYNAMIXEL_LONGEST];
    const size_t size = dynamixel_packet(9, DYNAMIXEL_STATUS, sent, sizeof sent, packet);
    assert_int_equal(size, 10 + sizeof sent + 2);
    assert_int_equal(feed(packet, size), 1);
    assert_int_equal(status.size, sizeof sent - 1); /* the first is the error */
    assert_memory_equal(content, sent + 1, sizeof sent - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pulses_span_the_range_of_the_joint),
        cmocka_unit_test(counts_are_zero_and_counts_per_unit),
        cmocka_unit_test(packets_are_those_of_the_manual),
        cmocka_unit_test_setup(status_packets_are_those_of_the_manual, setup),
        cmocka_unit_test_setup(status_packets_are_found_between_noise_and_instructions, setup),
        cmocka_unit_test_setup(every_flipped_bit_is_detected_and_the_next_packet_is_found, setup),
        cmocka_unit_test_setup(servos_answer_together_as_in_the_manual, setup),
        cmocka_unit_test_setup(parameters_that_contain_a_header_are_stuffed_and_restored, setup),
    };
    return cmocka_run_group_tests_name("actuators", tests, NULL, NULL);
}
