/* The back end of Dynamixel servos: what it sends, and what it knows of the joints after the answers. */
#include "dynamixel_bench.h"

static int32_t goal_of(uint8_t bus, uint8_t id)
{
    int32_t goal;
    memcpy(&goal, servo(bus, id)->registers + GOAL, sizeof goal);
    return goal;
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
    uint8_t late[DYNAMIXEL_LONGEST]; /* of before: the torque is on */
    const uint8_t content[8] = {0, 1};
    bench_answer(0, late, dynamixel_packet(1, DYNAMIXEL_STATUS, content, sizeof content, late));
    steps(100);
    assert_false(has(WAIST, LINK_JOINT_FLAG_TORQUE));
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
    } errors[] = {{0x01, LINK_JOINT_FLAG_VOLTAGE},
                  {0x04, LINK_JOINT_FLAG_OVERHEATED},
                  {0x08, LINK_JOINT_FLAG_ENCODER},
                  {0x10, LINK_JOINT_FLAG_VOLTAGE},
                  {0x20, LINK_JOINT_FLAG_OVERLOADED}};
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(nothing_is_known_before_the_first_answer, setup),
        cmocka_unit_test_setup(counts_become_positions_and_currents_of_the_joint, setup),
        cmocka_unit_test_setup(a_current_of_minus_one_is_stuffed_on_the_wire_and_read, setup),
        cmocka_unit_test_setup(a_damaged_answer_is_one_that_is_missing, setup),
        cmocka_unit_test_setup(a_damaged_length_does_not_hide_the_packets_behind_it, setup),
        cmocka_unit_test_setup(torque_comes_after_the_goals_and_is_confirmed, setup),
        cmocka_unit_test_setup(a_joint_has_torque_where_its_shadow_has_it_too, setup),
        cmocka_unit_test_setup(torque_that_is_switched_off_is_no_restart, setup),
        cmocka_unit_test_setup(a_servo_that_restarted_is_named_and_gets_no_goals_until_torque_is_switched_on, setup),
        cmocka_unit_test_setup(torque_waits_for_a_bus_that_is_still_sending, setup),
        cmocka_unit_test_setup(a_joint_shows_the_hottest_and_the_lowest_volts_of_its_servos, setup),
        cmocka_unit_test_setup(an_alert_is_looked_up_at_once_and_ends_with_it, setup),
    };
    return cmocka_run_group_tests_name("dynamixel", tests, NULL, NULL);
}
