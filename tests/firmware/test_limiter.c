/* The motion limiter of one joint. */
#include <math.h>

#include "cmocka_suite.h"
#include "motion_limiter.h"

static const struct joint JOINT = {.name = "j",
                                   .unit = "rad",
                                   .minimum = -1.0f,
                                   .maximum = 1.0f,
                                   .velocity = 5.0f,
                                   .acceleration = 25.0f,
                                   .home = 0.0f,
                                   .resolution = 1.0e-4f};
static const float SLACK = 1.0e-6f;

static struct motion_limits limits;

static int setup(void **state)
{
    (void)state;
    limits = motion_limits_of(&JOINT, 50.0f);
    return 0;
}

static uint8_t track(struct joint_motion *motion, float target, float velocity)
{
    const struct joint_motion before = *motion;
    const struct motion_target aim = {target, velocity, 0.0f};
    const uint8_t flags = motion_track(&limits, motion, &aim, NULL);
    assert_true(motion->position >= limits.minimum && motion->position <= limits.maximum);
    assert_true(fabsf(motion->velocity) <= limits.max_step + SLACK);
    assert_true(fabsf(motion->velocity - before.velocity) <= limits.max_change + SLACK);
    return flags;
}

static void limits_are_per_tick(void **state)
{
    (void)state;
    assert_true(fabsf(limits.max_step - 0.1f) < SLACK);
    assert_true(fabsf(limits.max_change - 0.01f) < SLACK);
}

static void a_resting_target_is_reached_without_overshoot(void **state)
{
    (void)state;
    struct joint_motion motion = {0.0f, 0.0f};
    unsigned ticks = 0;
    while (track(&motion, 0.77f, 0.0f) != 0 && ticks < 100) {
        assert_true(motion.position <= 0.77f);
        ticks++;
    }
    assert_true(ticks < 25); /* at least 0.77 / 0.1 and the two ramps of 10 ticks */
    assert_memory_equal(&motion.position, &(float){0.77f}, sizeof(float));
    assert_int_equal(track(&motion, 0.77f, 0.0f), 0);
    assert_true(motion.velocity == 0.0f);
}

static void a_moving_target_is_reached_and_then_followed_exactly(void **state)
{
    (void)state;
    struct joint_motion motion = {-0.5f, 0.0f};
    float target = 0.0f;
    unsigned ticks = 0;
    while (track(&motion, target, 0.02f) != 0 && ticks < 40) {
        assert_true(motion.position <= target);
        target += 0.02f;
        ticks++;
    }
    assert_true(ticks > 5 && ticks < 40);
    assert_true(motion.position == target);
}

static void a_motion_within_limits_is_not_changed(void **state)
{
    (void)state;
    struct joint_motion motion = {0.0f, 0.0f};
    for (unsigned tick = 1; tick < 500; tick++) {
        const float target = 0.4f - 0.4f * cosf((float)tick * 0.1f);
        const float next = 0.4f - 0.4f * cosf((float)(tick + 1) * 0.1f);
        assert_int_equal(track(&motion, target, next - target), 0);
        assert_true(motion.position == target);
    }
}

static void a_corner_where_the_target_will_stop_is_not_passed(void **state)
{
    (void)state;
    const struct motion_target corner = {0.3f, 0.0f, 0.0f};
    struct motion_target target = {-0.5f, 0.08f, 0.0f};
    struct joint_motion motion = {-0.5f, 0.08f};
    for (unsigned tick = 0; tick < 10; tick++) {
        target.position += target.velocity; /* beyond the corner: the limiter must not follow */
        (void)motion_track(&limits, &motion, &target, &corner);
        assert_true(motion.position <= 0.3f);
        assert_true(tick >= 5 || motion.position == target.position); /* nor slow down before it must */
    }
    while (motion.velocity > 0.0f) {
        (void)motion_track(&limits, &motion, &target, &corner);
    }
    assert_true(fabsf(motion.position - 0.3f) < SLACK);
}

static void full_speed_at_a_position_limit_stops_before_it(void **state)
{
    (void)state;
    struct joint_motion motion = {0.0f, 0.0f};
    for (unsigned tick = 0; tick < 60; tick++) {
        const uint8_t flags = track(&motion, 30.0f, 1.0f);
        assert_true((flags & LINK_TICK_FLAG_POSITION_LIMITED) != 0);
    }
    assert_true(motion.position == limits.maximum);
    assert_true(motion.velocity == 0.0f);
}

static void stopping_takes_the_shortest_distance_and_ends_at_rest(void **state)
{
    (void)state;
    struct joint_motion motion = {0.0f, 0.1f};
    for (unsigned tick = 0; tick < 10; tick++) {
        assert_true(motion.velocity > 0.0f);
        motion_stop(&limits, &motion);
    }
    assert_true(fabsf(motion.velocity) < SLACK);
    motion_stop(&limits, &motion);
    assert_true(motion.velocity == 0.0f);
    assert_true(fabsf(motion.position - 0.45f) < 10 * SLACK);
}

static void a_target_that_is_not_a_number_stops_the_joint(void **state)
{
    (void)state;
    const float garbage[][2] = {{NAN, 0.0f}, {0.0f, NAN}, {INFINITY, -INFINITY}, {-INFINITY, NAN}};
    for (size_t i = 0; i < 4; i++) {
        struct joint_motion motion = {0.0f, 0.05f};
        assert_true(track(&motion, garbage[i][0], garbage[i][1]) != 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limits_are_per_tick),
        cmocka_unit_test(a_resting_target_is_reached_without_overshoot),
        cmocka_unit_test(a_moving_target_is_reached_and_then_followed_exactly),
        cmocka_unit_test(a_motion_within_limits_is_not_changed),
        cmocka_unit_test(a_corner_where_the_target_will_stop_is_not_passed),
        cmocka_unit_test(full_speed_at_a_position_limit_stops_before_it),
        cmocka_unit_test(stopping_takes_the_shortest_distance_and_ends_at_rest),
        cmocka_unit_test(a_target_that_is_not_a_number_stops_the_joint),
    };
    return cmocka_run_group_tests_name("limiter", tests, setup, NULL);
}
