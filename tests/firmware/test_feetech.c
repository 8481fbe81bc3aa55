/* Feetech STS: packets against those of the vendor's examples, and the back end on two buses. */
#include "feetech_protocol.h"
#include "servo_bench.h"

enum { TORQUE = 40, GOAL = 42, POSITION = 56, VOLTS = 62, TEMPERATURE = 63, CURRENT = 69, FEEDBACK_SIZE = 15 };

static struct bench_servo *servo(uint8_t bus, uint8_t id)
{
    return &bench[bus].servos[id];
}

static void put(struct bench_servo *at, uint8_t address, uint16_t word)
{
    at->registers[address] = (uint8_t)word;
    at->registers[address + 1] = (uint8_t)(word >> 8);
}

static uint16_t word_at(uint8_t bus, uint8_t id, uint8_t address)
{
    const uint8_t *registers = servo(bus, id)->registers;
    return (uint16_t)(registers[address] | registers[address + 1] << 8);
}

static void write_registers(uint8_t bus, const uint8_t *parameters, size_t size)
{
    const uint8_t width = parameters[1];
    for (size_t at = 2; at < size; at += 1u + width) {
        memcpy(servo(bus, parameters[at])->registers + parameters[0], parameters + at + 1, width);
    }
}

static void answer_each(uint8_t bus, const uint8_t *parameters, size_t size)
{
    for (size_t at = 2; at < size; at++) {
        const struct bench_servo *asked = servo(bus, parameters[at]);
        if (!asked->present && asked->silences) {
            return;
        }
        if (asked->present) {
            uint8_t packet[FEETECH_LONGEST];
            const uint8_t *data = asked->registers + parameters[0];
            bench_answer(bus, packet, feetech_packet(parameters[at], asked->error, data, parameters[1], packet));
        }
    }
}

static size_t serve_packet(uint8_t bus, const uint8_t *sent)
{
    const size_t length = sent[3];
    assert_int_equal(sent[2], FEETECH_BROADCAST);
    if (sent[4] == FEETECH_SYNC_WRITE) {
        write_registers(bus, sent + FEETECH_HEAD, length - 2);
    } else {
        assert_int_equal(sent[4], FEETECH_SYNC_READ);
        answer_each(bus, sent + FEETECH_HEAD, length - 2);
    }
    return 4 + length;
}

static int setup(void **state)
{
    bench_start(state);
    for (uint8_t bus = 0; bus < BENCH_BUSES; bus++) {
        for (uint8_t id = 0; id < BENCH_IDS; id++) {
            put(servo(bus, id), POSITION, 2048);
            servo(bus, id)->registers[VOLTS] = 120;
            servo(bus, id)->registers[TEMPERATURE] = (uint8_t)(30 + id);
        }
    }
    return 0;
}

static void packets_are_those_of_the_vendor(void **state)
{
    (void)state;
    const uint8_t ping[] = {0xFF, 0xFF, 0x01, 0x02, 0x01, 0xFB};
    const uint8_t read[] = {0xFF, 0xFF, 0x01, 0x04, 0x02, 0x38, 0x02, 0xBE};
    const uint8_t feedback[] = {0xFF, 0xFF, 0x01, 0x04, 0x02, 0x38, 0x0F, 0xB1};
    const uint8_t torque_on[] = {0xFF, 0xFF, 0x01, 0x04, 0x03, 0x28, 0x01, 0xCE};
    const uint8_t middle[] = {0xFF, 0xFF, 0x01, 0x04, 0x03, 0x28, 0x80, 0x4F};
    const uint8_t sync_write[] = {0xFF, 0xFF, 0xFE, 0x0A, 0x83, 0x2A, 0x02, 0x01, 0x00, 0x08, 0x02, 0xFF, 0x07, 0x37};
    const uint8_t sync_read[] = {0xFF, 0xFF, 0xFE, 0x06, 0x82, 0x38, 0x02, 0x01, 0x02, 0x3C};
    const uint8_t ids[] = {1, 2};
    const uint16_t goals[] = {2048, 2047};
    uint8_t packet[FEETECH_LONGEST];
    assert_int_equal(feetech_packet(1, FEETECH_PING, NULL, 0, packet), sizeof ping);
    assert_memory_equal(packet, ping, sizeof ping);
    feetech_packet(1, FEETECH_READ, read + 5, 2, packet);
    assert_memory_equal(packet, read, sizeof read);
    feetech_packet(1, FEETECH_READ, feedback + 5, 2, packet);
    assert_memory_equal(packet, feedback, sizeof feedback);
    feetech_packet(1, FEETECH_WRITE, torque_on + 5, 2, packet);
    assert_memory_equal(packet, torque_on, sizeof torque_on);
    feetech_packet(1, FEETECH_WRITE, middle + 5, 2, packet);
    assert_memory_equal(packet, middle, sizeof middle);
    assert_int_equal(feetech_sync_write(42, 2, ids, goals, 2, packet), sizeof sync_write);
    assert_memory_equal(packet, sync_write, sizeof sync_write);
    assert_int_equal(feetech_sync_read(56, 2, ids, 2, packet), sizeof sync_read);
    assert_memory_equal(packet, sync_read, sizeof sync_read);
}

static void negative_numbers_are_a_sign_and_a_magnitude(void **state)
{
    (void)state;
    assert_int_equal(feetech_number(0x0000), 0);
    assert_int_equal(feetech_number(0x07FF), 2047);
    assert_int_equal(feetech_number(0x8001), -1);
    assert_int_equal(feetech_number(0xFFFF), -32767);
    assert_int_equal(feetech_word(-1), 0x8001);
    assert_int_equal(feetech_word(4096), 4096);
    assert_int_equal(feetech_word(-100000), 0xFFFF);
    assert_int_equal(feetech_word(100000), 0x7FFF);
}

static struct feetech_receiver receiver;

/* Feeds bytes that answer reads of two bytes; returns how many answers came, the last in `status`. */
static unsigned feed(const uint8_t *data, size_t size, struct feetech_status *status)
{
    unsigned answers = 0;
    for (size_t i = 0; i < size; i++) {
        const bool may_be_complete = feetech_receive(&receiver, data[i]);
        while (may_be_complete && feetech_next(&receiver, 2, 2, status)) {
            answers++;
        }
    }
    return answers;
}

static void answers_are_those_of_the_vendor(void **state)
{
    (void)state;
    const uint8_t both[] = {0xFF, 0xFF, 0x01, 0x04, 0x00, 0x18, 0x05, 0xDD,
                            0xFF, 0xFF, 0x02, 0x04, 0x00, 0x00, 0x08, 0xF1};
    const uint8_t overloaded[] = {0xFF, 0xFF, 0x06, 0x04, 0x20, 0xFF, 0x07, 0xCF};
    struct feetech_status status;
    feetech_reset(&receiver);
    assert_int_equal(feed(both, sizeof both, &status), 2);
    assert_int_equal(status.id, 2);
    assert_int_equal(status.data[1], 0x08);
    assert_int_equal(feed(overloaded, sizeof overloaded, &status), 1);
    assert_int_equal(status.id, 6);
    assert_int_equal(status.errors, 0x20);
    assert_int_equal(status.data[0] | status.data[1] << 8, 2047);
}

static void a_start_within_data_or_noise_does_not_hide_a_packet(void **state)
{
    (void)state;
    const uint8_t of_ff[] = {0xFF, 0xFF, 0x01, 0x04, 0x00, 0xFF, 0xFF, 0xFC};
    const uint8_t noise[] = {0xFF, 0xFF, 0xFF, 0x01, 0xFF, 0xFF, 0x02, 0x04, 0x00};
    struct feetech_status status;
    feetech_reset(&receiver);
    assert_int_equal(feed(of_ff, sizeof of_ff, &status), 1);
    assert_int_equal(feed(noise, sizeof noise, &status), 0); /* ends within what could be a packet */
    assert_int_equal(feed(of_ff, sizeof of_ff, &status), 1);
    assert_int_equal(status.id, 1);
    const uint8_t ids[] = {1, 2, 3};
    const uint16_t goals[] = {0xFFFF, 0x01FF, 3};
    uint8_t packet[FEETECH_LONGEST];
    assert_int_equal(feed(packet, feetech_sync_write(42, 2, ids, goals, 3, packet), &status), 0); /* our own echo */
    assert_int_equal(feed(of_ff, sizeof of_ff, &status), 1);
}

static void every_flipped_bit_is_detected(void **state)
{
    (void)state;
    const uint8_t answer[] = {0xFF, 0xFF, 0x01, 0x04, 0x00, 0xFF, 0x07, 0xF4};
    for (size_t bit = 0; bit < 8 * sizeof answer; bit++) {
        uint8_t broken[sizeof answer];
        struct feetech_status status;
        memcpy(broken, answer, sizeof broken);
        broken[bit / 8] ^= (uint8_t)(1u << bit % 8);
        feetech_reset(&receiver);
        assert_int_equal(feed(broken, sizeof broken, &status), 0);
        assert_int_equal(feed(answer, sizeof answer, &status), 1);
    }
}

static void the_feedback_is_read_in_one_block(void **state)
{
    (void)state;
    const uint8_t request[] = {0xFF, 0xFF, 0xFE, 0x08, 0x82, 0x38, 0x0F, 1, 2, 3, 4};
    put(servo(0, 1), POSITION, 1048);
    put(servo(0, 1), CURRENT, 0x8000 | 120);
    put(servo(0, 2), POSITION, 0x8000 | 952); /* multi-turn: below zero */
    put(servo(0, 4), POSITION, 2500);
    put(servo(0, 4), CURRENT, 0x8000 | 40);
    put(servo(1, 1), POSITION, 6000); /* multi-turn: more than a turn */
    step();
    assert_int_equal(bench[0].sent_size, sizeof request + 1);
    assert_memory_equal(bench[0].sent, request, sizeof request);
    assert_int_equal(bench[0].answers_size, 4 * (6 + FEEDBACK_SIZE));
    step();
    assert_float_equal(measured[WAIST].position, -1.0f, 1e-6f);
    assert_float_equal(measured[WAIST].current, -0.12f, 1e-6f);
    assert_float_equal(measured[SHOULDER].position, -3.0f, 1e-6f);
    assert_float_equal(measured[GRIPPER].position, 0.5f, 1e-6f);
    assert_float_equal(measured[GRIPPER].current, 0.04f, 1e-6f);
    assert_float_equal(measured[OTHER].position, 10.0f, 1e-6f);
    assert_float_equal(measured[WAIST].volts, 12.0f, 1e-5f);
    assert_int_equal(measured[SHOULDER].temperature, 33); /* of its two servos the hotter */
    assert_int_equal(measured[WAIST].age, 0);
    assert_int_equal(missing, 0);
}

static void data_are_delivered_with_the_errors(void **state)
{
    (void)state;
    static const struct {
        uint8_t bit;
        uint8_t flag;
    } errors[] = {{0x01, LINK_JOINT_FLAG_VOLTAGE},
                  {0x02, LINK_JOINT_FLAG_ENCODER},
                  {0x04, LINK_JOINT_FLAG_OVERHEATED},
                  {0x08, LINK_JOINT_FLAG_OVERLOADED},
                  {0x20, LINK_JOINT_FLAG_OVERLOADED},
                  {0x00, 0}};
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        put(servo(0, 1), POSITION, (uint16_t)(2048 + 100 * i));
        servo(0, 1)->error = errors[i].bit;
        steps(3);
        assert_int_equal(measured[WAIST].flags, errors[i].flag | LINK_JOINT_FLAG_MEASURED);
        assert_float_equal(measured[WAIST].position, 0.1f * (float)i, 1e-6f);
    }
}

static void own_packets_that_come_back_are_consumed(void **state)
{
    (void)state;
    bench[0].echoes = bench[1].echoes = true;
    motion[WAIST].position = 63.487f; /* a goal of FFFFh */
    torque = TORQUE_ON;
    steps(40);
    assert_int_equal(missing, 0);
    assert_int_equal(measured[WAIST].age, 0);
    assert_int_equal(measured[GRIPPER].age, 0);
}

static void goals_have_two_bytes_and_a_sign(void **state)
{
    (void)state;
    const uint8_t goals[] = {0xFF, 0xFF, 0xFE, 0x0D, 0x83, 0x2A, 0x02, 1, 0x00, 0x08, 2, 0x64, 0x80, 4, 0xB8, 0x0B};
    motion[SHOULDER].position = -2.148f;
    torque = TORQUE_ON;
    step();
    assert_memory_equal(bench[0].sent, goals, sizeof goals);
    assert_int_equal(feetech_number(word_at(0, 2, GOAL)), -100);
    assert_int_equal(servo(0, 1)->registers[TORQUE], 0);
    step();
    assert_int_equal(servo(0, 1)->registers[TORQUE], 1);
    steps(3);
    assert_true(has(WAIST, LINK_JOINT_FLAG_TORQUE));
    assert_false(has(SHOULDER, LINK_JOINT_FLAG_TORQUE)); /* nobody switched on what the table calls its shadow */
}

static void a_servo_that_restarted_is_named(void **state)
{
    (void)state;
    torque = TORQUE_ON;
    steps(10);
    servo(1, 1)->registers[TORQUE] = 0;
    steps(60);
    assert_true(has(OTHER, LINK_JOINT_FLAG_RESTARTED));
    assert_false(has(WAIST, LINK_JOINT_FLAG_RESTARTED));
    servo(0, 1)->registers[TORQUE] = 2; /* damping is no torque */
    steps(60);
    assert_true(has(WAIST, LINK_JOINT_FLAG_RESTARTED));
}

static void torque_is_read_in_turn_and_nothing_else(void **state)
{
    (void)state;
    static const uint8_t feedback[] = {0x82, 0x38, 0x0F};
    static const uint8_t condition[] = {0x82, 0x28, 0x01};
    unsigned of_feedback = 0;
    unsigned of_condition = 0;
    for (unsigned i = 0; i < 250; i++) {
        step();
        of_feedback += was_sent(0, feedback, sizeof feedback);
        of_condition += was_sent(0, condition, sizeof condition);
    }
    assert_int_equal(of_feedback + of_condition, 250);
    assert_in_range(of_condition, 9, 11);
}

static void a_silent_servo_is_asked_last(void **state)
{
    (void)state;
    const uint8_t request[] = {0xFF, 0xFF, 0xFE, 0x08, 0x82, 0x38, 0x0F, 2, 3, 4, 1};
    servo(0, 1)->present = false;
    servo(0, 1)->silences = true;
    steps(3);
    assert_memory_equal(bench[0].sent, request, sizeof request);
    steps(20);
    assert_in_range(measured[GRIPPER].age, 0, 2);
    assert_int_equal(measured[WAIST].age, MEASUREMENT_TOO_OLD);
}

static void random_bytes_between_and_instead_of_answers_do_no_harm(void **state)
{
    (void)state;
    uint32_t seed = 1;
    for (unsigned round = 0; round < 400; round++) {
        step();
        uint8_t noise[64];
        const size_t size = 1 + next_random(&seed) % (sizeof noise - 1);
        for (size_t i = 0; i < size; i++) {
            const uint8_t likely[] = {0xFF, 0xFF, 0x01, 0x11, 0xFE, 0x82, 0x03, 0x00};
            const uint32_t random = next_random(&seed);
            noise[i] = random % 2 != 0 ? likely[random / 2 % sizeof likely] : (uint8_t)(random / 2);
        }
        bench_answer(0, noise, size);
        bench[0].answers[next_random(&seed) % bench[0].answers_size] ^= 1u;
    }
    bench[0].answers_size = 0;
    put(servo(0, 1), POSITION, 3048);
    steps(6);
    assert_float_equal(measured[WAIST].position, 1.0f, 1e-6f);
    assert_int_equal(measured[WAIST].age, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packets_are_those_of_the_vendor),
        cmocka_unit_test(negative_numbers_are_a_sign_and_a_magnitude),
        cmocka_unit_test(answers_are_those_of_the_vendor),
        cmocka_unit_test(a_start_within_data_or_noise_does_not_hide_a_packet),
        cmocka_unit_test(every_flipped_bit_is_detected),
        cmocka_unit_test_setup(the_feedback_is_read_in_one_block, setup),
        cmocka_unit_test_setup(data_are_delivered_with_the_errors, setup),
        cmocka_unit_test_setup(own_packets_that_come_back_are_consumed, setup),
        cmocka_unit_test_setup(goals_have_two_bytes_and_a_sign, setup),
        cmocka_unit_test_setup(a_servo_that_restarted_is_named, setup),
        cmocka_unit_test_setup(torque_is_read_in_turn_and_nothing_else, setup),
        cmocka_unit_test_setup(a_silent_servo_is_asked_last, setup),
        cmocka_unit_test_setup(random_bytes_between_and_instead_of_answers_do_no_harm, setup),
    };
    return cmocka_run_group_tests_name("feetech", tests, NULL, NULL);
}
