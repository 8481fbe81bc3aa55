/* The back end of Dynamixel servos on two buses: what it sends, and what it knows after the answers. */
#include "dynamixel_protocol.h"
#include "servo_bench.h"

enum { MODEL = 0, FIRMWARE = 6, TORQUE = 64, HARDWARE_ERROR = 70, GOAL = 116, CURRENT = 126, POSITION = 132, VOLTS = 144 };
enum { XM430 = 1020, XL430_TWO = 1090 };

static struct bench_servo *servo(uint8_t bus, uint8_t id)
{
    return &bench[bus].servos[id];
}

static void put(struct bench_servo *at, uint8_t address, int32_t value, unsigned size)
{
    for (unsigned byte = 0; byte < size; byte++) {
        at->registers[address + byte] = (uint8_t)((uint32_t)value >> (8 * byte));
    }
}

static int32_t goal_of(uint8_t bus, uint8_t id)
{
    int32_t goal;
    memcpy(&goal, servo(bus, id)->registers + GOAL, sizeof goal);
    return goal;
}

static void write_registers(uint8_t bus, const uint8_t *parameters, size_t size)
{
    const uint8_t address = parameters[0];
    const uint8_t width = parameters[2];
    for (size_t at = 4; at < size; at += 1u + width) {
        memcpy(servo(bus, parameters[at])->registers + address, parameters + at + 1, width);
    }
}

static void answer_each(uint8_t bus, const uint8_t *parameters, size_t size)
{
    for (size_t at = 4; at < size; at++) {
        const struct bench_servo *asked = servo(bus, parameters[at]);
        if (!asked->present && asked->silences) {
            return;
        }
        if (asked->present) {
            uint8_t content[1 + DYNAMIXEL_MOST_DATA] = {asked->error};
            uint8_t packet[DYNAMIXEL_LONGEST];
            memcpy(content + 1, asked->registers + parameters[0], parameters[2]);
            bench_answer(bus, packet,
                         dynamixel_packet(parameters[at], DYNAMIXEL_STATUS, content, 1u + parameters[2], packet));
        }
    }
}

static void answer_together(uint8_t bus, const uint8_t *parameters, size_t size)
{
    const size_t count = size - 4;
    const size_t width = parameters[2];
    uint8_t packet[DYNAMIXEL_LONGEST_RECEIVED] = {0xFF, 0xFF, 0xFD, 0x00, 0xFE, (uint8_t)(1 + count * (width + 4)),
                                                  0, DYNAMIXEL_STATUS};
    size_t end = DYNAMIXEL_HEAD;
    for (size_t i = 0; i < count && servo(bus, parameters[4 + i])->present; i++) {
        const struct bench_servo *asked = servo(bus, parameters[4 + i]);
        packet[end++] = asked->error;
        packet[end++] = parameters[4 + i];
        memcpy(packet + end, asked->registers + parameters[0], width);
        end += width;
        const uint16_t crc = dynamixel_crc(0, packet, end);
        packet[end++] = (uint8_t)crc;
        packet[end++] = (uint8_t)(crc >> 8);
    }
    bench_answer(bus, packet, end);
}

static size_t serve_packet(uint8_t bus, const uint8_t *sent)
{
    const size_t length = sent[5];
    const size_t size = length - 3;
    const uint8_t *parameters = sent + DYNAMIXEL_HEAD;
    assert_int_equal(sent[4], DYNAMIXEL_BROADCAST);
    if (sent[7] == DYNAMIXEL_SYNC_WRITE) {
        write_registers(bus, parameters, size);
    } else if (sent[7] == DYNAMIXEL_SYNC_READ) {
        answer_each(bus, parameters, size);
    } else {
        assert_int_equal(sent[7], DYNAMIXEL_FAST_SYNC_READ);
        answer_together(bus, parameters, size);
    }
    return 7 + length;
}

static int setup(void **state)
{
    bench_start(state);
    for (uint8_t bus = 0; bus < BENCH_BUSES; bus++) {
        for (uint8_t id = 0; id < BENCH_IDS; id++) {
            put(servo(bus, id), MODEL, XL430_TWO, 2);
            put(servo(bus, id), VOLTS, 120, 2);
            put(servo(bus, id), VOLTS + 2, 30 + id, 1);
            put(servo(bus, id), POSITION, 2048, 4);
        }
    }
    return 0;
}

static void the_first_request_is_a_sync_read_of_all_servos_of_its_bus(void **state)
{
    (void)state;
    const uint8_t first[] = {0xFF, 0xFF, 0xFD, 0x00, 0xFE, 0x0B, 0x00, 0x82, 0x7E, 0x00, 0x0A, 0x00, 1, 2, 3, 4};
    const uint8_t second[] = {0xFF, 0xFF, 0xFD, 0x00, 0xFE, 0x08, 0x00, 0x82, 0x7E, 0x00, 0x0A, 0x00, 1};
    assert_int_equal(bench[0].baud, 1000000);
    assert_int_equal(bench[1].baud, 1000000);
    step();
    assert_int_equal(bench[0].sent_size, sizeof first + 2);
    assert_memory_equal(bench[0].sent, first, sizeof first);
    assert_memory_equal(bench[1].sent, second, sizeof second);
}

static void nothing_is_known_before_the_first_answer(void **state)
{
    (void)state;
    step();
    for (uint8_t i = 0; i < BENCH_JOINTS; i++) {
        assert_int_equal(measured[i].age, MEASUREMENT_TOO_OLD);
        assert_int_equal(measured[i].flags, 0);
        assert_true(measured[i].volts == 0.0f && measured[i].temperature == 0);
    }
    assert_true(measured[WAIST].position == 0.25f);
}

static void counts_become_positions_and_currents_of_the_joint(void **state)
{
    (void)state;
    put(servo(0, 1), POSITION, 3048, 4);
    put(servo(0, 1), CURRENT, -250, 2);
    put(servo(0, 2), POSITION, -952, 4);
    put(servo(0, 2), CURRENT, 100, 2);
    put(servo(0, 4), POSITION, 2500, 4);
    put(servo(0, 4), CURRENT, -40, 2);
    put(servo(1, 1), POSITION, 1500, 4);
    put(servo(1, 1), CURRENT, 999, 2);
    steps(2);
    assert_float_equal(measured[WAIST].position, 1.0f, 1e-6f);
    assert_float_equal(measured[WAIST].current, -0.25f, 1e-6f);
    assert_float_equal(measured[SHOULDER].position, -3.0f, 1e-6f);
    assert_float_equal(measured[SHOULDER].current, 0.2f, 1e-6f);
    assert_float_equal(measured[GRIPPER].position, 0.5f, 1e-6f);
    assert_float_equal(measured[GRIPPER].current, 0.04f, 1e-6f); /* towards greater positions */
    assert_float_equal(measured[OTHER].position, 1.0f, 1e-6f);
    assert_float_equal(measured[OTHER].current, 0.0f, 0.0f); /* its model has no such register */
    for (uint8_t i = 0; i < BENCH_JOINTS; i++) {
        assert_int_equal(measured[i].age, 0);
        assert_true(has(i, LINK_JOINT_FLAG_MEASURED));
    }
    assert_int_equal(missing, 0);
}

static void a_current_of_minus_one_is_stuffed_on_the_wire_and_read(void **state)
{
    (void)state;
    put(servo(0, 1), CURRENT, -1, 2);
    put(servo(0, 1), CURRENT + 2, 0xFD, 4); /* velocity: FF FF FD follow each other */
    put(servo(0, 1), POSITION, 2148, 4);
    step();
    const uint8_t stuffed[] = {0xFF, 0xFF, 0xFD, 0xFD};
    bool found = false;
    for (size_t at = 0; at + sizeof stuffed <= bench[0].answers_size; at++) {
        found = found || memcmp(bench[0].answers + at, stuffed, sizeof stuffed) == 0;
    }
    assert_true(found);
    step();
    assert_float_equal(measured[WAIST].current, -0.001f, 1e-7f);
    assert_float_equal(measured[WAIST].position, 0.1f, 1e-6f);
}

static void own_packets_that_come_back_are_ignored(void **state)
{
    (void)state;
    bench[0].echoes = bench[1].echoes = true;
    torque = TORQUE_ON;
    steps(40);
    assert_int_equal(missing, 0);
    assert_int_equal(measured[WAIST].age, 0);
}

static void ages_count_servo_steps_and_stop_at_the_oldest(void **state)
{
    (void)state;
    bench_table.bus.measure_steps = 5;
    uint8_t oldest = 0;
    steps(8);
    for (unsigned i = 0; i < 50; i++) {
        step();
        oldest = measured[WAIST].age > oldest ? measured[WAIST].age : oldest;
    }
    assert_int_equal(oldest, 4);
    servo(0, 1)->present = false;
    steps(100);
    assert_in_range(measured[WAIST].age, 96, 104);
    assert_true(has(WAIST, LINK_JOINT_FLAG_MEASURED));
    assert_in_range(measured[SHOULDER].age, 0, 5);
    steps(300);
    assert_int_equal(measured[WAIST].age, MEASUREMENT_TOO_OLD);
}

static void nothing_is_sent_while_answers_are_due(void **state)
{
    (void)state;
    for (uint8_t id = 1; id <= 4; id++) {
        servo(0, id)->present = false;
    }
    step();
    assert_int_equal(bench[0].writes, 1);
    step();
    assert_int_equal(bench[0].writes, 1); /* the second step of the request */
    assert_int_equal(bench[1].writes, 2); /* the other bus does not wait */
    assert_int_equal(missing, 0);
    step();
    assert_int_equal(bench[0].writes, 2);
    assert_int_equal(missing, 4);
}

static const uint8_t *list_of_request(uint8_t bus)
{
    return bench[bus].sent + bench[bus].sent_size - 2 - 4;
}

static void the_first_silent_servo_is_asked_last(void **state)
{
    (void)state;
    const uint8_t listed[] = {1, 3, 4, 2};
    servo(0, 2)->present = false;
    servo(0, 2)->silences = true;
    steps(3);
    assert_int_equal(missing, 3); /* 2, and 3 and 4 behind it */
    assert_memory_equal(list_of_request(0), listed, sizeof listed);
    step();
    assert_int_equal(measured[GRIPPER].age, 0);
    assert_int_equal(measured[WAIST].age, 0);
    steps(40);
    assert_in_range(measured[GRIPPER].age, 0, 2);
}

static void two_silent_servos_do_not_silence_the_others_for_long(void **state)
{
    (void)state;
    for (uint8_t id = 2; id <= 3; id++) {
        servo(0, id)->present = false;
        servo(0, id)->silences = true;
    }
    steps(10);
    assert_in_range(measured[GRIPPER].age, 0, 2);
    assert_in_range(measured[WAIST].age, 0, 2);
    servo(0, 3)->present = true; /* the shadow alone does not measure the joint */
    steps(10);
    assert_false(has(SHOULDER, LINK_JOINT_FLAG_MEASURED));
    servo(0, 2)->present = true;
    steps(10);
    assert_true(has(SHOULDER, LINK_JOINT_FLAG_MEASURED));
}

static void a_servo_that_is_gone_does_not_slow_the_goals(void **state)
{
    (void)state;
    servo(0, 4)->present = false;
    torque = TORQUE_ON;
    steps(60);
    const unsigned before = bench[0].writes;
    steps(50);
    assert_int_equal(bench[0].writes - before, 50);
}

static void a_damaged_answer_is_one_that_is_missing(void **state)
{
    (void)state;
    put(servo(0, 1), POSITION, 3048, 4);
    put(servo(0, 2), POSITION, 3048, 4);
    step();
    bench[0].answers[10] ^= 0x01; /* in the answer of servo 1 */
    steps(2);
    assert_int_equal(missing, 1);
    assert_false(has(WAIST, LINK_JOINT_FLAG_MEASURED));
    assert_float_equal(measured[SHOULDER].position, 1.0f, 1e-6f);
}

static void a_damaged_length_does_not_hide_the_packets_behind_it(void **state)
{
    (void)state;
    put(servo(0, 2), POSITION, 3048, 4);
    step();
    bench[0].answers[5] = 40; /* as if servo 1 had answered with as many bytes as two others */
    steps(2);
    assert_int_equal(missing, 1);
    assert_float_equal(measured[SHOULDER].position, 1.0f, 1e-6f);
}

static void torque_comes_after_the_goals_and_is_confirmed(void **state)
{
    (void)state;
    const uint8_t enable[] = {0x83, 0x40, 0x00, 0x01, 0x00, 1, 1, 2, 1, 4, 1};
    const uint8_t goals[] = {0x83, 0x74, 0x00, 0x04, 0x00};
    const uint8_t condition[] = {0x82, 0x40, 0x00, 0x07, 0x00};
    motion[WAIST].position = 0.5f;
    motion[GRIPPER].position = 1.0f;
    steps(5);
    assert_false(was_sent(0, goals, sizeof goals));
    torque = TORQUE_ON;
    step();
    assert_true(was_sent(0, goals, sizeof goals));
    assert_int_equal(goal_of(0, 1), 2548);
    assert_int_equal(goal_of(0, 4), 2000);
    assert_int_equal(servo(0, 1)->registers[TORQUE], 0);
    step();
    assert_true(was_sent(0, goals, sizeof goals));
    assert_true(was_sent(0, enable, sizeof enable)); /* and not the shadow, which hears it as 2 */
    assert_int_equal(servo(0, 1)->registers[TORQUE], 1);
    servo(0, 3)->registers[TORQUE] = 1;
    step();
    assert_true(was_sent(0, condition, sizeof condition));
    assert_false(has(WAIST, LINK_JOINT_FLAG_TORQUE));
    step();
    assert_true(has(WAIST, LINK_JOINT_FLAG_TORQUE) && has(SHOULDER, LINK_JOINT_FLAG_TORQUE));
    assert_false(was_sent(0, enable, sizeof enable));
}

static void a_joint_has_torque_where_its_shadow_has_it_too(void **state)
{
    (void)state;
    torque = TORQUE_ON;
    steps(6);
    assert_true(has(WAIST, LINK_JOINT_FLAG_TORQUE));
    assert_false(has(SHOULDER, LINK_JOINT_FLAG_TORQUE));
    servo(0, 3)->registers[TORQUE] = 1;
    steps(80);
    assert_true(has(SHOULDER, LINK_JOINT_FLAG_TORQUE));
}

static void torque_that_is_switched_off_is_no_restart(void **state)
{
    (void)state;
    torque = TORQUE_ON;
    steps(20);
    torque = TORQUE_OFF;
    steps(8);
    assert_int_equal(servo(0, 1)->registers[TORQUE], 0);
    assert_false(has(WAIST, LINK_JOINT_FLAG_TORQUE));
    steps(100);
    assert_false(has(WAIST, LINK_JOINT_FLAG_RESTARTED));
    const uint8_t goals[] = {0x83, 0x74, 0x00, 0x04, 0x00};
    assert_false(was_sent(0, goals, sizeof goals));
}

static void a_servo_that_restarted_is_named_and_gets_no_goals_until_torque_is_switched_on(void **state)
{
    (void)state;
    torque = TORQUE_ON;
    steps(20);
    servo(0, 1)->registers[TORQUE] = 0;
    steps(80);
    assert_true(has(WAIST, LINK_JOINT_FLAG_RESTARTED));
    assert_false(has(WAIST, LINK_JOINT_FLAG_TORQUE));
    assert_false(has(OTHER, LINK_JOINT_FLAG_RESTARTED));
    put(servo(0, 1), GOAL, 78, 4);
    steps(10);
    assert_int_equal(goal_of(0, 1), 78);
    torque = TORQUE_UNCHANGED;
    steps(10);
    assert_true(has(WAIST, LINK_JOINT_FLAG_RESTARTED));
    torque = TORQUE_ON;
    step();
    assert_int_equal(goal_of(0, 1), 2048);
    steps(10);
    assert_false(has(WAIST, LINK_JOINT_FLAG_RESTARTED));
    assert_true(has(WAIST, LINK_JOINT_FLAG_TORQUE));
}

static void torque_waits_for_a_bus_that_is_still_sending(void **state)
{
    (void)state;
    bench[0].is_sending = true;
    torque = TORQUE_ON;
    steps(10);
    bench[0].is_sending = false;
    step();
    assert_int_equal(goal_of(0, 1), 2048);
    assert_int_equal(servo(0, 1)->registers[TORQUE], 0);
    step();
    assert_int_equal(servo(0, 1)->registers[TORQUE], 1);
}

static void a_joint_shows_the_hottest_and_the_lowest_volts_of_its_servos(void **state)
{
    (void)state;
    put(servo(0, 2), VOLTS, 118, 2);
    put(servo(0, 3), VOLTS, 111, 2);
    put(servo(0, 3), VOLTS + 2, 61, 1);
    steps(100);
    assert_float_equal(measured[SHOULDER].volts, 11.1f, 1e-5f);
    assert_int_equal(measured[SHOULDER].temperature, 61);
    assert_float_equal(measured[OTHER].volts, 12.0f, 1e-5f);
    assert_int_equal(measured[OTHER].temperature, 31);
}

static void an_alert_is_looked_up_at_once_and_ends_with_it(void **state)
{
    (void)state;
    static const struct {
        uint8_t bit;
        uint8_t flag;
    } errors[] = {{0x01, LINK_JOINT_FLAG_VOLTAGE},    {0x04, LINK_JOINT_FLAG_OVERHEATED}, {0x08, LINK_JOINT_FLAG_ENCODER},
                  {0x10, LINK_JOINT_FLAG_VOLTAGE},    {0x20, LINK_JOINT_FLAG_OVERLOADED}};
    const unsigned all =
        LINK_JOINT_FLAG_VOLTAGE | LINK_JOINT_FLAG_OVERHEATED | LINK_JOINT_FLAG_ENCODER | LINK_JOINT_FLAG_OVERLOADED;
    steps(10);
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        servo(0, 3)->error = 0x80;
        servo(0, 3)->registers[HARDWARE_ERROR] = errors[i].bit;
        steps(4);
        assert_int_equal(measured[SHOULDER].flags & all, errors[i].flag);
        assert_int_equal(measured[WAIST].flags & all, 0);
        servo(0, 3)->error = 0;
        servo(0, 3)->registers[HARDWARE_ERROR] = 0;
        steps(4);
        assert_int_equal(measured[SHOULDER].flags & all, 0);
    }
}

static void set_firmware(uint16_t model, uint8_t firmware)
{
    for (uint8_t id = 1; id <= 4; id++) {
        put(servo(0, id), MODEL, model, 2);
        put(servo(0, id), FIRMWARE, firmware, 1);
    }
}

static bool answers_together_after(unsigned count)
{
    const uint8_t fast[] = {0x8A, 0x7E, 0x00, 0x0A, 0x00, 1, 2, 3, 4};
    for (unsigned i = 0; i < count; i++) {
        step();
        if (was_sent(0, fast, sizeof fast)) {
            return true;
        }
    }
    return false;
}

static void servos_of_a_new_firmware_answer_together(void **state)
{
    (void)state;
    set_firmware(XM430, 45);
    put(servo(0, 4), POSITION, 2000, 4);
    put(servo(0, 1), CURRENT, -1, 2);
    put(servo(0, 1), CURRENT + 2, 0xFD, 4); /* is not stuffed here */
    assert_true(answers_together_after(120));
    const uint8_t *packet = bench[0].answers;
    assert_int_equal(packet[4], DYNAMIXEL_BROADCAST);
    assert_int_equal(bench[0].answers_size, 8 + 4 * 14);
    step();
    assert_float_equal(measured[GRIPPER].position, 1.0f, 1e-6f);
    assert_float_equal(measured[WAIST].current, -0.001f, 1e-7f);
    assert_int_equal(measured[WAIST].age, 0);
    assert_int_equal(missing, 0);
}

static void older_firmware_and_models_without_it_answer_one_by_one(void **state)
{
    (void)state;
    set_firmware(XM430, 44);
    assert_false(answers_together_after(200));
    setup(state);
    set_firmware(XL430_TWO, 99);
    assert_false(answers_together_after(200));
    setup(state);
    set_firmware(1200, 45); /* XL330: since 46 */
    assert_false(answers_together_after(200));
    setup(state);
    set_firmware(XM430, 45);
    put(servo(0, 3), FIRMWARE, 44, 1); /* one of them suffices */
    assert_false(answers_together_after(200));
}

static void after_an_incomplete_common_answer_each_servo_is_asked_alone(void **state)
{
    (void)state;
    set_firmware(XM430, 45);
    assert_true(answers_together_after(120));
    step();
    servo(0, 2)->present = false;
    steps(8);
    assert_in_range(measured[WAIST].age, 0, 2);
    assert_in_range(measured[GRIPPER].age, 0, 2);
    assert_true(measured[SHOULDER].age >= 6);
    servo(0, 2)->present = true;
    assert_false(answers_together_after(10)); /* the list has another order, and first all must have answered */
    steps(40);
    assert_in_range(measured[SHOULDER].age, 0, 2);
    const uint8_t fast[] = {0x8A, 0x7E, 0x00, 0x0A, 0x00, 1, 3, 4, 2};
    assert_true(was_sent(0, fast, sizeof fast));
}

static void motion_keeps_its_rate_beside_the_other_blocks(void **state)
{
    (void)state;
    static const uint8_t motion_block[] = {0x82, 0x7E, 0x00, 0x0A, 0x00};
    static const uint8_t health_block[] = {0x82, 0x90, 0x00, 0x03, 0x00};
    static const uint8_t condition_block[] = {0x82, 0x40, 0x00, 0x07, 0x00};
    unsigned counts[3] = {0};
    steps(300); /* until every servo is identified */
    for (unsigned i = 0; i < 250; i++) {
        step();
        counts[0] += was_sent(0, motion_block, sizeof motion_block);
        counts[1] += was_sent(0, health_block, sizeof health_block);
        counts[2] += was_sent(0, condition_block, sizeof condition_block);
    }
    assert_in_range(counts[0], 239, 241);
    assert_in_range(counts[1], 4, 6);
    assert_in_range(counts[2], 4, 6);
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
            const uint8_t likely[] = {0xFF, 0xFF, 0xFD, 0x00, 0xFE, 0x55, 0x01, 0x0A};
            const uint32_t random = next_random(&seed);
            noise[i] = random % 2 != 0 ? likely[random / 2 % sizeof likely] : (uint8_t)(random / 2);
        }
        bench_answer(0, noise, size);
        if (round % 4 == 0) {
            bench[0].answers[next_random(&seed) % bench[0].answers_size] ^= 1u;
        }
    }
    bench[0].answers_size = 0;
    put(servo(0, 1), POSITION, 3048, 4);
    steps(6);
    assert_float_equal(measured[WAIST].position, 1.0f, 1e-6f);
    assert_int_equal(measured[WAIST].age, 0);
    for (uint8_t i = 0; i < BENCH_JOINTS; i++) {
        assert_true(has(i, LINK_JOINT_FLAG_MEASURED));
        assert_false(has(i, LINK_JOINT_FLAG_RESTARTED));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_first_request_is_a_sync_read_of_all_servos_of_its_bus, setup),
        cmocka_unit_test_setup(nothing_is_known_before_the_first_answer, setup),
        cmocka_unit_test_setup(counts_become_positions_and_currents_of_the_joint, setup),
        cmocka_unit_test_setup(a_current_of_minus_one_is_stuffed_on_the_wire_and_read, setup),
        cmocka_unit_test_setup(own_packets_that_come_back_are_ignored, setup),
        cmocka_unit_test_setup(ages_count_servo_steps_and_stop_at_the_oldest, setup),
        cmocka_unit_test_setup(nothing_is_sent_while_answers_are_due, setup),
        cmocka_unit_test_setup(the_first_silent_servo_is_asked_last, setup),
        cmocka_unit_test_setup(two_silent_servos_do_not_silence_the_others_for_long, setup),
        cmocka_unit_test_setup(a_servo_that_is_gone_does_not_slow_the_goals, setup),
        cmocka_unit_test_setup(a_damaged_answer_is_one_that_is_missing, setup),
        cmocka_unit_test_setup(a_damaged_length_does_not_hide_the_packets_behind_it, setup),
        cmocka_unit_test_setup(torque_comes_after_the_goals_and_is_confirmed, setup),
        cmocka_unit_test_setup(a_joint_has_torque_where_its_shadow_has_it_too, setup),
        cmocka_unit_test_setup(torque_that_is_switched_off_is_no_restart, setup),
        cmocka_unit_test_setup(a_servo_that_restarted_is_named_and_gets_no_goals_until_torque_is_switched_on, setup),
        cmocka_unit_test_setup(torque_waits_for_a_bus_that_is_still_sending, setup),
        cmocka_unit_test_setup(a_joint_shows_the_hottest_and_the_lowest_volts_of_its_servos, setup),
        cmocka_unit_test_setup(an_alert_is_looked_up_at_once_and_ends_with_it, setup),
        cmocka_unit_test_setup(servos_of_a_new_firmware_answer_together, setup),
        cmocka_unit_test_setup(older_firmware_and_models_without_it_answer_one_by_one, setup),
        cmocka_unit_test_setup(after_an_incomplete_common_answer_each_servo_is_asked_alone, setup),
        cmocka_unit_test_setup(motion_keeps_its_rate_beside_the_other_blocks, setup),
        cmocka_unit_test_setup(random_bytes_between_and_instead_of_answers_do_no_harm, setup),
    };
    return cmocka_run_group_tests_name("dynamixel", tests, NULL, NULL);
}
