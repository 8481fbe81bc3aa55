/* Two buses of servos: when what is sent, and what becomes of servos that do not answer. With Dynamixel servos. */
#include "dynamixel_bench.h"

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
        cmocka_unit_test_setup(own_packets_that_come_back_are_ignored, setup),
        cmocka_unit_test_setup(ages_count_servo_steps_and_stop_at_the_oldest, setup),
        cmocka_unit_test_setup(nothing_is_sent_while_answers_are_due, setup),
        cmocka_unit_test_setup(the_first_silent_servo_is_asked_last, setup),
        cmocka_unit_test_setup(two_silent_servos_do_not_silence_the_others_for_long, setup),
        cmocka_unit_test_setup(a_servo_that_is_gone_does_not_slow_the_goals, setup),
        cmocka_unit_test_setup(servos_of_a_new_firmware_answer_together, setup),
        cmocka_unit_test_setup(older_firmware_and_models_without_it_answer_one_by_one, setup),
        cmocka_unit_test_setup(after_an_incomplete_common_answer_each_servo_is_asked_alone, setup),
        cmocka_unit_test_setup(motion_keeps_its_rate_beside_the_other_blocks, setup),
        cmocka_unit_test_setup(random_bytes_between_and_instead_of_answers_do_no_harm, setup),
    };
    return cmocka_run_group_tests_name("servo buses", tests, NULL, NULL);
}
