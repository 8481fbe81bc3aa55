/* The assembly of fragments to chunks, and the ring of setpoints. */
#include "chunk_assembly.h"
#include "cmocka_suite.h"
#include "setpoint_ring.h"

enum { JOINTS = 2 };

static struct setpoint_ring ring;
static struct chunk_assembly assembly;
static struct link_chunk_reply reply;

static int setup(void **state)
{
    (void)state;
    setpoint_ring_clear(&ring);
    chunk_assembly_reset(&assembly);
    return 0;
}

static enum link_chunk_result commit(uint32_t id, uint32_t first_tick, uint8_t steps, uint32_t now)
{
    struct chunk chunk = {.id = id, .first_tick = first_tick, .steps = steps, .joints = JOINTS};
    for (uint8_t step = 0; step < steps; step++) {
        chunk.counts[step][0] = (int16_t)(100 * (int16_t)id + step);
    }
    return setpoint_ring_commit(&ring, &chunk, now);
}

static uint32_t chunk_at(uint32_t tick)
{
    const struct setpoint *setpoint = setpoint_ring_at(&ring, tick);
    return setpoint != NULL ? setpoint->chunk_id : 0;
}

static void setpoints_are_found_by_their_tick(void **state)
{
    (void)state;
    assert_int_equal(commit(1, 1000, 10, 990), LINK_CHUNK_RESULT_ACCEPTED);
    assert_null(setpoint_ring_at(&ring, 999));
    assert_int_equal(setpoint_ring_at(&ring, 1003)->counts[0], 103);
    assert_null(setpoint_ring_at(&ring, 1003 + LINK_RING_DEPTH));
    assert_int_equal(setpoint_ring_level(&ring, 990), 10);
    assert_int_equal(setpoint_ring_level(&ring, 1003), 6);
}

static void a_newer_chunk_replaces_all_setpoints_after_the_guard(void **state)
{
    (void)state;
    assert_int_equal(commit(1, 100, 50, 98), LINK_CHUNK_RESULT_ACCEPTED);
    assert_int_equal(commit(2, 105, 20, 110), LINK_CHUNK_RESULT_ACCEPTED);
    assert_int_equal(chunk_at(111), 1);
    assert_int_equal(chunk_at(112), 2);
    assert_int_equal(setpoint_ring_at(&ring, 112)->counts[0], 207);
    assert_int_equal(chunk_at(124), 2);
    assert_int_equal(chunk_at(125), 0); /* what chunk 1 had planned after the end of chunk 2 */
    assert_int_equal(setpoint_ring_level(&ring, 110), 14);
}

static void the_old_plan_continues_until_a_later_chunk_begins(void **state)
{
    (void)state;
    assert_int_equal(commit(1, 100, 50, 98), LINK_CHUNK_RESULT_ACCEPTED);
    assert_int_equal(commit(2, 120, 40, 105), LINK_CHUNK_RESULT_ACCEPTED);
    assert_int_equal(chunk_at(119), 1);
    assert_int_equal(chunk_at(120), 2);
    assert_int_equal(chunk_at(159), 2);
}

static void older_chunks_never_replace_newer_ones(void **state)
{
    (void)state;
    assert_int_equal(commit(5, 100, 50, 90), LINK_CHUNK_RESULT_ACCEPTED);
    assert_int_equal(commit(5, 100, 50, 90), LINK_CHUNK_RESULT_STALE);
    assert_int_equal(commit(4, 100, 50, 90), LINK_CHUNK_RESULT_STALE);
    assert_int_equal(chunk_at(120), 5);
    setpoint_ring_clear(&ring);
    assert_int_equal(commit(4, 100, 50, 90), LINK_CHUNK_RESULT_ACCEPTED);
}

static void late_and_far_chunks_change_nothing(void **state)
{
    (void)state;
    assert_int_equal(commit(1, 100, 10, 95), LINK_CHUNK_RESULT_ACCEPTED);
    assert_int_equal(commit(2, 50, 50, 98), LINK_CHUNK_RESULT_LATE);
    assert_int_equal(commit(3, 80, 20, 98), LINK_CHUNK_RESULT_LATE); /* its last step is the guarded tick */
    assert_int_equal(commit(4, 98 + LINK_RING_DEPTH - 9, 10, 98), LINK_CHUNK_RESULT_TOO_FAR_AHEAD);
    assert_int_equal(commit(5, 98u + 0x80000000u, 10, 98), LINK_CHUNK_RESULT_LATE);
    assert_int_equal(setpoint_ring_level(&ring, 98), 10);
    assert_int_equal(ring.newest_chunk, 1);
    assert_int_equal(commit(6, 98 + LINK_RING_DEPTH - 10, 10, 98), LINK_CHUNK_RESULT_ACCEPTED);
}

static void ticks_and_chunk_numbers_may_wrap_around(void **state)
{
    (void)state;
    assert_int_equal(commit(UINT32_MAX, UINT32_MAX - 4u, 10, UINT32_MAX - 9u), LINK_CHUNK_RESULT_ACCEPTED);
    assert_int_equal(chunk_at(4), UINT32_MAX);
    assert_int_equal(commit(1, UINT32_MAX, 10, UINT32_MAX - 2u), LINK_CHUNK_RESULT_ACCEPTED);
    assert_int_equal(chunk_at(UINT32_MAX - 1u), UINT32_MAX);
    assert_int_equal(chunk_at(8), 1);
}

static struct link_fragment fragment(uint32_t id, uint8_t index)
{
    struct link_fragment made = {.chunk_id = id,
                                 .first_tick = 100,
                                 .step_count = 8,
                                 .fragment_index = index,
                                 .fragment_count = 3,
                                 .first_step = (uint8_t)(index * 3),
                                 .steps = index < 2 ? 3 : 2,
                                 .joints = JOINTS};
    for (size_t i = 0; i < made.steps * (size_t)JOINTS; i++) {
        made.values[i] = (int16_t)(1000 * index + (int)i);
    }
    return made;
}

static enum assembly_event add(const struct link_fragment *added, uint32_t now)
{
    return chunk_assembly_add(&assembly, added, JOINTS, now, &reply);
}

static enum assembly_event add_part(uint32_t id, uint8_t index, uint32_t now)
{
    const struct link_fragment made = fragment(id, index);
    return add(&made, now);
}

static void fragments_in_any_order_make_the_chunk(void **state)
{
    (void)state;
    assert_int_equal(add_part(9, 2, 50), ASSEMBLY_REPLY);
    assert_int_equal(reply.result, LINK_CHUNK_RESULT_INCOMPLETE);
    assert_int_equal(reply.received, 4);
    assert_int_equal(add_part(9, 0, 50), ASSEMBLY_QUIET);
    assert_int_equal(add_part(9, 0, 50), ASSEMBLY_REPLY); /* a repetition: the host may have missed the reply */
    assert_int_equal(reply.received, 5);
    assert_int_equal(add_part(9, 1, 51), ASSEMBLY_COMPLETE);
    assert_int_equal(assembly.chunk.counts[4][1], 1003);
    assert_int_equal(assembly.chunk.counts[7][0], 2002);
}

static void every_second_fragment_and_every_gap_is_acknowledged(void **state)
{
    (void)state;
    struct link_fragment part = fragment(9, 0);
    part.fragment_count = 8;
    const uint8_t order[] = {0, 1, 2, 4, 5, 6, 3};
    const uint32_t confirmed[] = {0, 0x03, 0, 0x17, 0, 0x77, 0}; /* 0: nothing */
    for (size_t i = 0; i < sizeof order; i++) {
        part.fragment_index = order[i];
        assert_int_equal(add(&part, 50), confirmed[i] != 0 ? ASSEMBLY_REPLY : ASSEMBLY_QUIET);
        if (confirmed[i] != 0) {
            assert_int_equal(reply.received, confirmed[i]);
        }
    }
}

static void the_result_is_sent_again_when_a_fragment_is_repeated(void **state)
{
    (void)state;
    (void)add_part(9, 0, 50);
    (void)add_part(9, 1, 50);
    assert_int_equal(add_part(9, 2, 50), ASSEMBLY_COMPLETE);
    chunk_assembly_finish(&assembly, LINK_CHUNK_RESULT_LATE, LINK_NO_JOINT, 50, &reply);
    assert_int_equal(reply.result, LINK_CHUNK_RESULT_LATE);
    assert_int_equal(reply.tick, 50);
    memset(&reply, 0, sizeof reply);
    assert_int_equal(add_part(9, 2, 51), ASSEMBLY_REPLY);
    assert_int_equal(reply.result, LINK_CHUNK_RESULT_LATE);
    assert_int_equal(reply.received, 7);
    assert_int_equal(reply.tick, 50); /* of the decision, not of the repetition */
    assert_int_equal(add_part(8, 0, 51), ASSEMBLY_REPLY);
    assert_int_equal(reply.result, LINK_CHUNK_RESULT_STALE);
    assert_int_equal(reply.chunk_id, 8);
}

static void missing_fragments_are_reported_once_on_a_quiet_line(void **state)
{
    (void)state;
    (void)add_part(9, 0, 50);
    assert_false(chunk_assembly_remind(&assembly, 51, &reply));
    assert_true(chunk_assembly_remind(&assembly, 52, &reply));
    assert_int_equal(reply.received, 1);
    assert_false(chunk_assembly_remind(&assembly, 60, &reply));
    (void)add_part(9, 1, 61);
    assert_true(chunk_assembly_remind(&assembly, 70, &reply));
}

static void a_newer_chunk_replaces_an_incomplete_one(void **state)
{
    (void)state;
    (void)add_part(9, 0, 50);
    (void)add_part(10, 1, 50);
    assert_int_equal(add_part(9, 1, 50), ASSEMBLY_REPLY);
    assert_int_equal(reply.result, LINK_CHUNK_RESULT_STALE);
    (void)add_part(10, 0, 50);
    assert_int_equal(add_part(10, 2, 50), ASSEMBLY_COMPLETE);
}

static void impossible_fragments_are_refused(void **state)
{
    (void)state;
    struct link_fragment wrong[8];
    for (size_t i = 0; i < 8; i++) {
        wrong[i] = fragment(9, 0);
    }
    wrong[0].chunk_id = 0;
    wrong[1].joints = JOINTS + 1;
    wrong[2].step_count = LINK_MAX_HORIZON + 1;
    wrong[3].fragment_index = 3;
    wrong[4].fragment_count = 33;
    wrong[5].first_step = 6;
    wrong[6].steps = 0;
    wrong[7].step_count = 0;
    for (size_t i = 0; i < 8; i++) {
        assert_int_equal(add(&wrong[i], 50), ASSEMBLY_REPLY);
        assert_int_equal(reply.result, LINK_CHUNK_RESULT_WRONG_SHAPE);
        assert_int_equal(assembly.chunk.id, 0);
    }
}

static void fragments_that_contradict_each_other_are_refused(void **state)
{
    (void)state;
    struct link_fragment other = fragment(9, 1);
    (void)add_part(9, 0, 50);
    other.first_tick++;
    assert_int_equal(add(&other, 50), ASSEMBLY_REPLY);
    assert_int_equal(reply.result, LINK_CHUNK_RESULT_WRONG_SHAPE);
    other = fragment(9, 1);
    other.first_step = 0; /* all fragments come, but steps 3 to 5 are in none */
    (void)add(&other, 50);
    assert_int_equal(add_part(9, 2, 50), ASSEMBLY_REPLY);
    assert_int_equal(reply.result, LINK_CHUNK_RESULT_WRONG_SHAPE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(setpoints_are_found_by_their_tick, setup),
        cmocka_unit_test_setup(a_newer_chunk_replaces_all_setpoints_after_the_guard, setup),
        cmocka_unit_test_setup(the_old_plan_continues_until_a_later_chunk_begins, setup),
        cmocka_unit_test_setup(older_chunks_never_replace_newer_ones, setup),
        cmocka_unit_test_setup(late_and_far_chunks_change_nothing, setup),
        cmocka_unit_test_setup(ticks_and_chunk_numbers_may_wrap_around, setup),
        cmocka_unit_test_setup(fragments_in_any_order_make_the_chunk, setup),
        cmocka_unit_test_setup(every_second_fragment_and_every_gap_is_acknowledged, setup),
        cmocka_unit_test_setup(the_result_is_sent_again_when_a_fragment_is_repeated, setup),
        cmocka_unit_test_setup(missing_fragments_are_reported_once_on_a_quiet_line, setup),
        cmocka_unit_test_setup(a_newer_chunk_replaces_an_incomplete_one, setup),
        cmocka_unit_test_setup(impossible_fragments_are_refused, setup),
        cmocka_unit_test_setup(fragments_that_contradict_each_other_are_refused, setup),
    };
    return cmocka_run_group_tests_name("chunks", tests, NULL, NULL);
}
