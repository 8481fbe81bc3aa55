/* The state machine alone: every command in every state, and every fault. */
#include "cmocka_suite.h"
#include "safety.h"

static const struct safety_inputs CALM = {.elapsed = 1, .heartbeat = true, .at_rest = true};

enum { TICK_HZ = 50, HEARTBEAT_TICKS = 10, STARVED_TICKS = 5, SATURATED_TICKS = 50, MISSED_TICKS = 25 };

static struct safety safety;

static int setup(void **state)
{
    (void)state;
    safety_init(&safety, LINK_RESET_CAUSE_POWER_ON, TICK_HZ);
    safety.peer_known = true;
    (void)safety_tick(&safety, &CALM);
    return 0;
}

static enum link_command_result commanded(uint8_t number, bool at_rest, bool estop_pressed)
{
    const struct safety_conditions conditions = {.at_rest = at_rest, .estop_pressed = estop_pressed};
    return safety_command(&safety, number, &conditions);
}

static enum link_command_result command(uint8_t number)
{
    return commanded(number, true, false);
}

static void run(void)
{
    struct safety_inputs inputs = CALM;
    inputs.setpoint_due = true;
    assert_int_equal(command(LINK_COMMAND_ARM), LINK_COMMAND_RESULT_OK);
    assert_true(safety_tick(&safety, &inputs));
    assert_int_equal(safety.state, LINK_STATE_RUNNING);
}

static void commands_are_accepted_only_where_the_table_says(void **state)
{
    (void)state;
    /* DISARMED, ARMED, RUNNING, STARVED, SAFE, ESTOP; the state after the command or -1 where it is refused. */
    const int table[][6] = {
        [LINK_COMMAND_ARM] = {LINK_STATE_ARMED, -1, -1, -1, -1, -1},
        [LINK_COMMAND_DISARM] = {LINK_STATE_DISARMED, LINK_STATE_DISARMED, LINK_STATE_DISARMED, LINK_STATE_DISARMED,
                                 -1, -1},
        [LINK_COMMAND_CLEAR] = {LINK_STATE_DISARMED, -1, -1, -1, LINK_STATE_DISARMED, LINK_STATE_DISARMED},
        [LINK_COMMAND_ESTOP] = {LINK_STATE_ESTOP, LINK_STATE_ESTOP, LINK_STATE_ESTOP, LINK_STATE_ESTOP,
                                LINK_STATE_ESTOP, LINK_STATE_ESTOP},
    };
    for (uint8_t number = LINK_COMMAND_ARM; number <= LINK_COMMAND_ESTOP; number++) {
        for (unsigned from = LINK_STATE_DISARMED; from <= LINK_STATE_ESTOP; from++) {
            setup(NULL);
            safety.state = (enum link_state)from;
            const enum link_command_result result = command(number);
            const int expected = table[number][from];
            assert_int_equal(result, expected < 0 ? LINK_COMMAND_RESULT_WRONG_STATE : LINK_COMMAND_RESULT_OK);
            assert_int_equal(safety.state, expected < 0 ? (int)from : expected);
        }
    }
    assert_int_equal(command(99), LINK_COMMAND_RESULT_UNKNOWN_COMMAND);
}

static void arming_needs_a_known_host_and_a_recent_heartbeat(void **state)
{
    (void)state;
    safety_init(&safety, LINK_RESET_CAUSE_POWER_ON, TICK_HZ);
    assert_int_equal(command(LINK_COMMAND_ARM), LINK_COMMAND_RESULT_WRONG_STATE);
    safety.peer_known = true;
    assert_int_equal(command(LINK_COMMAND_ARM), LINK_COMMAND_RESULT_NO_HEARTBEAT);
    (void)safety_tick(&safety, &CALM);
    assert_int_equal(command(LINK_COMMAND_ARM), LINK_COMMAND_RESULT_OK);
}

static void starvation_returns_to_running_or_latches(void **state)
{
    (void)state;
    struct safety_inputs inputs = CALM;
    run();
    for (unsigned i = 0; i < STARVED_TICKS - 1; i++) {
        assert_false(safety_tick(&safety, &inputs));
        assert_int_equal(safety.state, LINK_STATE_STARVED);
    }
    inputs.setpoint_due = true;
    assert_true(safety_tick(&safety, &inputs));
    assert_int_equal(safety.state, LINK_STATE_RUNNING);
    inputs.setpoint_due = false;
    for (unsigned i = 0; i < STARVED_TICKS; i++) {
        (void)safety_tick(&safety, &inputs);
    }
    assert_int_equal(safety.state, LINK_STATE_SAFE);
    assert_int_equal(safety.faults, LINK_FAULT_STARVATION);
    inputs.setpoint_due = true;
    assert_false(safety_tick(&safety, &inputs));
    assert_int_equal(safety.state, LINK_STATE_SAFE);
}

static void starvation_waits_for_rest(void **state)
{
    (void)state;
    struct safety_inputs inputs = CALM;
    run();
    inputs.at_rest = false;
    for (unsigned i = 0; i < 3 * STARVED_TICKS; i++) {
        (void)safety_tick(&safety, &inputs);
        assert_int_equal(safety.state, LINK_STATE_STARVED);
    }
    inputs.at_rest = true;
    (void)safety_tick(&safety, &inputs);
    assert_int_equal(safety.state, LINK_STATE_SAFE);
}

static void a_missing_heartbeat_stops_the_arm_in_every_active_state(void **state)
{
    (void)state;
    const enum link_state active[] = {LINK_STATE_ARMED, LINK_STATE_RUNNING, LINK_STATE_STARVED};
    for (size_t k = 0; k < 3; k++) {
        struct safety_inputs inputs = CALM;
        setup(NULL);
        safety.state = active[k];
        inputs.heartbeat = false;
        inputs.at_rest = false;
        inputs.setpoint_due = active[k] == LINK_STATE_RUNNING;
        for (unsigned i = 0; i < HEARTBEAT_TICKS - 1; i++) {
            (void)safety_tick(&safety, &inputs);
            assert_int_equal(safety.state, active[k]);
        }
        assert_false(safety_tick(&safety, &inputs));
        assert_int_equal(safety.state, LINK_STATE_SAFE);
        assert_int_equal(safety.faults, LINK_FAULT_HEARTBEAT);
    }
}

static void coalesced_ticks_do_not_count_as_missing_heartbeats(void **state)
{
    (void)state;
    struct safety_inputs inputs = CALM;
    run();
    inputs.heartbeat = false;
    inputs.setpoint_due = true;
    inputs.elapsed = MISSED_TICKS;
    assert_true(safety_tick(&safety, &inputs));
    inputs.elapsed = MISSED_TICKS + 1;
    inputs.heartbeat = true;
    assert_false(safety_tick(&safety, &inputs));
    assert_int_equal(safety.faults, LINK_FAULT_TICK_OVERRUN);
}

static void long_saturation_latches(void **state)
{
    (void)state;
    struct safety_inputs inputs = CALM;
    run();
    inputs.setpoint_due = true;
    inputs.saturated = true;
    for (unsigned i = 0; i < SATURATED_TICKS - 1; i++) {
        assert_true(safety_tick(&safety, &inputs));
    }
    assert_false(safety_tick(&safety, &inputs));
    assert_int_equal(safety.faults, LINK_FAULT_LIMIT_SATURATION);
}

static void the_estop_pin_latches_in_any_state_and_prevents_clear(void **state)
{
    (void)state;
    struct safety_inputs inputs = CALM;
    for (unsigned from = LINK_STATE_DISARMED; from <= LINK_STATE_ESTOP; from++) {
        setup(NULL);
        safety.state = (enum link_state)from;
        inputs.setpoint_due = true;
        safety_press_estop(&safety);
        assert_int_equal(safety.state, LINK_STATE_ESTOP);
        assert_false(safety_tick(&safety, &inputs));
        assert_int_equal(safety.state, LINK_STATE_ESTOP);
    }
    assert_int_equal(commanded(LINK_COMMAND_CLEAR, true, true), LINK_COMMAND_RESULT_WRONG_STATE);
    assert_int_equal(commanded(LINK_COMMAND_CLEAR, false, false), LINK_COMMAND_RESULT_WRONG_STATE);
    assert_int_equal(commanded(LINK_COMMAND_CLEAR, true, false), LINK_COMMAND_RESULT_OK);
    assert_int_equal(safety.faults, 0);
}

static void time_limits_are_converted_to_ticks_of_the_control_rate(void **state)
{
    (void)state;
    const struct {
        uint16_t hz;
        uint32_t heartbeat, starved;
    } rates[] = {{10, 2, 1}, {25, 5, 3}, {50, HEARTBEAT_TICKS, STARVED_TICKS}, {200, 40, 20}};
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        safety_init(&safety, LINK_RESET_CAUSE_POWER_ON, rates[i].hz);
        assert_int_equal(safety_ticks(&safety, SAFETY_HEARTBEAT_MS), rates[i].heartbeat);
        assert_int_equal(safety_ticks(&safety, SAFETY_STARVED_MS), rates[i].starved);
    }
}

static void a_watchdog_reset_must_be_cleared_before_arming(void **state)
{
    (void)state;
    safety_init(&safety, LINK_RESET_CAUSE_WATCHDOG, TICK_HZ);
    safety.peer_known = true;
    (void)safety_tick(&safety, &CALM);
    assert_int_equal(safety.state, LINK_STATE_DISARMED);
    assert_int_equal(safety.faults, LINK_FAULT_WATCHDOG_RESET);
    assert_int_equal(command(LINK_COMMAND_ARM), LINK_COMMAND_RESULT_WRONG_STATE);
    assert_int_equal(command(LINK_COMMAND_CLEAR), LINK_COMMAND_RESULT_OK);
    assert_int_equal(command(LINK_COMMAND_ARM), LINK_COMMAND_RESULT_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(commands_are_accepted_only_where_the_table_says, setup),
        cmocka_unit_test_setup(arming_needs_a_known_host_and_a_recent_heartbeat, setup),
        cmocka_unit_test_setup(starvation_returns_to_running_or_latches, setup),
        cmocka_unit_test_setup(starvation_waits_for_rest, setup),
        cmocka_unit_test_setup(a_missing_heartbeat_stops_the_arm_in_every_active_state, setup),
        cmocka_unit_test_setup(coalesced_ticks_do_not_count_as_missing_heartbeats, setup),
        cmocka_unit_test_setup(long_saturation_latches, setup),
        cmocka_unit_test_setup(the_estop_pin_latches_in_any_state_and_prevents_clear, setup),
        cmocka_unit_test(time_limits_are_converted_to_ticks_of_the_control_rate),
        cmocka_unit_test_setup(a_watchdog_reset_must_be_cleared_before_arming, setup),
    };
    return cmocka_run_group_tests_name("safety", tests, NULL, NULL);
}
