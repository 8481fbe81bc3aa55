#include "guards.h"

#include <string.h>

static float distance(float a, float b)
{
    return a < b ? b - a : a - b;
}

/* How many ticks, or servo steps, `ms` are at `hz`; rounded up and at least one. */
static uint32_t periods(uint32_t ms, uint32_t hz)
{
    return (ms * hz + 999u) / 1000u;
}

static bool is_measured(const struct joint_measurement *measured)
{
    return (measured->flags & LINK_JOINT_FLAG_MEASURED) != 0;
}

/* At the highest servo rate, 1000 Hz, GUARD_SILENT_MS are 200 steps; ages count up to 255. */
static bool is_fresh(const struct joint_table *table, const struct joint_measurement *measured)
{
    return measured->age < periods(GUARD_SILENT_MS, table->servo_hz);
}

bool guards_is_fresh(const struct joint_table *table, const struct joint_measurement *measured, uint8_t *joint)
{
    for (uint8_t i = 0; i < table->count; i++) {
        if (!is_fresh(table, &measured[i])) {
            *joint = i;
            return false;
        }
    }
    return true;
}

void guards_restart(struct guards *guards, const struct joint_table *table, const struct joint_motion *motion)
{
    memset(guards, 0, sizeof *guards);
    for (uint8_t past = 0; past < GUARD_PAST_TICKS; past++) {
        for (uint8_t i = 0; i < table->count; i++) {
            guards->past[past][i] = motion[i].position;
        }
    }
}

static void remember(struct guards *guards, const struct joint_table *table, const struct joint_motion *motion)
{
    memmove(guards->past[1], guards->past[0], (GUARD_PAST_TICKS - 1u) * sizeof guards->past[0]);
    for (uint8_t i = 0; i < table->count; i++) {
        guards->past[0][i] = motion[i].position;
    }
}

/* How far the joint is from the nearest of its commanded positions. */
static float following_error(const struct guards *guards, uint8_t joint, float position)
{
    float nearest = distance(guards->past[0][joint], position);
    for (uint8_t past = 1; past < GUARD_PAST_TICKS; past++) {
        const float error = distance(guards->past[past][joint], position);
        nearest = error < nearest ? error : nearest;
    }
    return nearest;
}

static bool is_over(float value, float limit)
{
    return limit > 0.0f && (value > limit || value < -limit);
}

static bool is_supply_wrong(const struct servo_bus *bus, float volts)
{
    return bus->highest_volts > 0.0f && volts > 0.0f && !(volts >= bus->lowest_volts && volts <= bus->highest_volts);
}

/* Torque that was lost, or that did not come in time after ARM, or an error of the servo that has no guard of its own. */
static bool is_servo_wrong(const struct guards *guards, const struct joint_table *table, uint8_t flags)
{
    const unsigned errors = LINK_JOINT_FLAG_OVERLOADED | LINK_JOINT_FLAG_ENCODER | LINK_JOINT_FLAG_RESTARTED |
                            LINK_JOINT_FLAG_VOLTAGE | LINK_JOINT_FLAG_OVERHEATED;
    const bool late = guards->armed_ticks >= periods(GUARD_TORQUE_MS, table->control_hz);
    return (flags & errors) != 0 || (late && (flags & LINK_JOINT_FLAG_TORQUE) == 0);
}

static const struct {
    uint16_t fault;
    uint16_t ms;
} kinds[GUARDS] = {
    [GUARD_FOLLOWING] = {LINK_FAULT_FOLLOWING_ERROR, GUARD_FOLLOWING_MS},
    [GUARD_CONTACT] = {LINK_FAULT_CONTACT, GUARD_CONTACT_MS},
    [GUARD_TEMPERATURE] = {LINK_FAULT_TEMPERATURE, GUARD_TEMPERATURE_MS},
    [GUARD_VOLTAGE] = {LINK_FAULT_VOLTAGE, GUARD_VOLTAGE_MS},
    [GUARD_ERROR] = {LINK_FAULT_SERVO_ERROR, GUARD_ERROR_MS},
};

static void accuse(struct guard_verdict *verdict, unsigned fault, uint8_t joint)
{
    verdict->joint = verdict->faults == 0 ? joint : verdict->joint;
    verdict->faults = (uint16_t)(verdict->faults | fault);
}

static void watch_joint(struct guards *guards, const struct joint_table *table, uint8_t i,
                        const struct joint_measurement *measured, struct guard_verdict *verdict)
{
    const struct joint *joint = &table->joints[i];
    const bool holds[GUARDS] = {
        [GUARD_FOLLOWING] = is_over(following_error(guards, i, measured->position), joint->following_error),
        [GUARD_CONTACT] = is_over(measured->current, joint->current),
        [GUARD_TEMPERATURE] = is_over((float)measured->temperature, joint->temperature),
        [GUARD_VOLTAGE] = is_supply_wrong(&table->bus, measured->volts),
        [GUARD_ERROR] = is_servo_wrong(guards, table, measured->flags),
    };
    for (uint8_t kind = 0; kind < GUARDS; kind++) {
        uint16_t *ticks = &guards->ticks[i][kind];
        const uint32_t limit = periods(kinds[kind].ms, table->control_hz);
        *ticks = holds[kind] ? (uint16_t)(*ticks + (*ticks < limit)) : 0u;
        if (*ticks >= limit) {
            accuse(verdict, kinds[kind].fault, i);
        }
    }
}

struct guard_verdict guards_tick(struct guards *guards, const struct joint_table *table,
                                 const struct joint_measurement *measured, const struct joint_motion *motion)
{
    struct guard_verdict verdict = {.faults = 0, .joint = LINK_NO_JOINT};
    const uint32_t longest = periods(GUARD_TORQUE_MS, table->control_hz);
    guards->armed_ticks = (uint16_t)(guards->armed_ticks + (guards->armed_ticks < longest));
    remember(guards, table, motion);
    for (uint8_t i = 0; i < table->count; i++) {
        if (!is_fresh(table, &measured[i])) {
            accuse(&verdict, LINK_FAULT_BUS_SILENT, i);
        } else if (is_measured(&measured[i])) {
            watch_joint(guards, table, i, &measured[i], &verdict);
        }
    }
    return verdict;
}
