/* Servos on half-duplex buses: when which packet is sent, and to whom. servo_protocol.h has the packets, servo_state.h
 * what the answers tell.
 *
 * Each servo step sends at most one write to a bus: the goals, and behind them either a change of the torque or one
 * request. While answers are due nothing is sent, for two servo steps at most. A robot's buses have the time for
 * that: the goals, the request and its answers, with the return delays of the servos, fit into one servo step. In
 * bytes of ten bits, for n servos of which g are commanded (firmware/joint_table.py checks it when it makes the
 * table):
 *
 *   Dynamixel  goals 14 + 5 g, request 14 + n, answers 21 n (together 8 + 14 n)
 *   Feetech    goals  8 + 3 g, request  8 + n, answers 21 n
 *
 * The servos answer in the order of the request, and one that is silent may silence those after it. So the first one
 * that did not answer is asked last from then on. After GIVEN_UP requests without an answer it is asked, but not
 * waited for. */
#include <string.h>

#include "actuators.h"
#include "board.h"
#include "servo_protocol.h"
#include "servo_state.h"
#include "servo_units.h"

enum {
    MOST_SERVOS = BOARD_BUSES * SERVO_MOST_ON_BUS,
    ANSWER_STEPS = 2,      /* servo steps after which an answer does not come any more */
    GIVEN_UP = 8,          /* requests in a row */
    COMPLETE_ANSWERS = 16, /* in a row, before the servos are to answer together: then one that is silent spoils all */
    TURNS_PER_SECOND = 10,
    READ_AT_ONCE = 64,
};

enum torque_stage { STAGE_DONE, STAGE_GOALS_FIRST, STAGE_SWITCH };

struct bus {
    uint8_t servos[SERVO_MOST_ON_BUS]; /* which of the table, in the order in which they are asked */
    uint8_t count;
    bool waiting; /* for answers */
    bool asked_together;
    enum servo_block asked;
    enum servo_block turn; /* the last of the blocks that are asked for in turn, less often than the motion */
    uint8_t waited;        /* servo steps */
    uint8_t complete;      /* requests in a row that every servo answered */
    uint16_t motion_steps; /* since the motion was asked for */
    uint16_t turn_steps;   /* since `turn` was asked for */
    bool condition_due;
    enum torque_stage stage;
};

static struct servo_state states[MOST_SERVOS];
static struct bus buses[BOARD_BUSES];
static float commanded[LINK_MAX_JOINTS];
static enum torque torque_now;

static uint8_t used_buses(const struct joint_table *table)
{
    return table->bus.buses < BOARD_BUSES ? table->bus.buses : (uint8_t)BOARD_BUSES;
}

static uint8_t used_servos(const struct joint_table *table)
{
    return table->servo_count < MOST_SERVOS ? table->servo_count : (uint8_t)MOST_SERVOS;
}

void actuators_start(const struct joint_table *table)
{
    memset(buses, 0, sizeof buses);
    torque_now = TORQUE_UNCHANGED;
    for (uint8_t i = 0; i < table->count; i++) {
        commanded[i] = table->joints[i].home;
    }
    for (uint8_t i = 0; i < used_servos(table); i++) {
        struct bus *bus = &buses[table->servos[i].bus];
        servo_state_init(&states[i]);
        if (bus->count < SERVO_MOST_ON_BUS) {
            bus->servos[bus->count++] = i;
        }
    }
    for (uint8_t number = 0; number < used_buses(table); number++) {
        servo_protocol_reset(number);
        board_bus_start(number, table->bus.baud);
    }
}

/* Whether a reading answers what the bus was last asked for. */
static bool is_answer(const struct bus *bus, const struct servo_reading *reading)
{
    static const uint8_t answers[SERVO_BLOCKS] = {
        [SERVO_MOTION] = SERVO_TOLD_MOTION,
        [SERVO_CONDITION] = SERVO_TOLD_TORQUE,
        [SERVO_HEALTH] = SERVO_TOLD_HEALTH,
        [SERVO_IDENTITY] = SERVO_TOLD_IDENTITY,
    };
    return (reading->told & answers[bus->asked]) != 0;
}

/* An alert that begins without telling which error it is has the condition read at once. */
static void take_reading(struct bus *bus, const struct servo *servo, struct servo_state *state,
                         const struct servo_reading *reading)
{
    const bool begins = reading->alert && !state->alert;
    const bool tells = (reading->told & SERVO_TOLD_ERRORS) != 0;
    bus->condition_due = bus->condition_due || (begins && !tells);
    state->answered = state->answered || is_answer(bus, reading);
    servo_state_take(state, servo, reading, torque_now != TORQUE_OFF);
}

/* A servo with another id is none of this robot. */
static void take_from_bus(const struct joint_table *table, struct bus *bus, const struct servo_reading *reading)
{
    for (uint8_t k = 0; k < bus->count; k++) {
        const uint8_t i = bus->servos[k];
        if (table->servos[i].id == reading->id) {
            take_reading(bus, &table->servos[i], &states[i], reading);
            return;
        }
    }
}

static void take_packets(const struct joint_table *table, uint8_t number)
{
    struct servo_reading reading;
    while (servo_protocol_next(number, &reading)) {
        take_from_bus(table, &buses[number], &reading);
    }
}

static void receive(const struct joint_table *table, uint8_t number)
{
    uint8_t bytes[READ_AT_ONCE];
    size_t size;
    do {
        size = board_bus_read(number, bytes, sizeof bytes);
        for (size_t i = 0; i < size; i++) {
            if (servo_protocol_receive(number, bytes[i])) {
                take_packets(table, number);
            }
        }
    } while (size == sizeof bytes);
}

static bool is_answer_due(const struct bus *bus)
{
    for (uint8_t k = 0; k < bus->count; k++) {
        const struct servo_state *state = &states[bus->servos[k]];
        if (!state->answered && state->silent < GIVEN_UP) {
            return bus->waited < ANSWER_STEPS;
        }
    }
    return false;
}

static void ask_last(struct bus *bus, uint8_t place)
{
    const uint8_t servo = bus->servos[place];
    memmove(bus->servos + place, bus->servos + place + 1, bus->count - 1u - place);
    bus->servos[bus->count - 1] = servo;
}

/* Ends a request; returns how many servos did not answer it. Where they were to answer together, nobody knows which. */
static uint8_t conclude(struct bus *bus)
{
    uint8_t missing = 0;
    uint8_t first = 0;
    for (uint8_t k = 0; k < bus->count; k++) {
        struct servo_state *state = &states[bus->servos[k]];
        if (state->answered) {
            state->silent = 0;
            continue;
        }
        first = missing == 0 ? k : first;
        missing++;
        state->silent = (uint8_t)(state->silent + (state->silent < GIVEN_UP));
    }
    bus->waiting = false;
    bus->complete = missing != 0 ? 0u : (uint8_t)(bus->complete + (bus->complete < COMPLETE_ANSWERS));
    if (missing != 0 && !bus->asked_together) {
        ask_last(bus, first);
    }
    return missing;
}

uint32_t actuators_measure(const struct joint_table *table, struct joint_measurement *measured)
{
    uint32_t missing = 0;
    for (uint8_t i = 0; i < used_servos(table); i++) {
        servo_state_age(&states[i]);
    }
    for (uint8_t number = 0; number < used_buses(table); number++) {
        struct bus *bus = &buses[number];
        receive(table, number);
        bus->waited = (uint8_t)(bus->waited + (bus->waited < ANSWER_STEPS));
        if (bus->waiting && !is_answer_due(bus)) {
            missing += conclude(bus);
        }
    }
    servo_state_combine(table, states, used_servos(table), commanded, measured);
    return missing;
}

/* Collects the servos that are commanded, or those of them that are not waiting to be switched on again: a servo that
 * restarted gets no goal before. */
static uint8_t list_commanded(const struct joint_table *table, const struct bus *bus, bool also_restarted,
                              uint8_t ids[SERVO_MOST_ON_BUS], int32_t goals[SERVO_MOST_ON_BUS])
{
    uint8_t count = 0;
    for (uint8_t k = 0; k < bus->count; k++) {
        const uint8_t i = bus->servos[k];
        const struct servo *servo = &table->servos[i];
        const bool restarted = (states[i].measured.flags & LINK_JOINT_FLAG_RESTARTED) != 0;
        if (!servo->is_shadow && (also_restarted || !restarted)) {
            ids[count] = servo->id;
            goals[count] = servo_count_at(servo, commanded[servo->joint]);
            count++;
        }
    }
    return count;
}

static bool are_all_identified(const struct bus *bus)
{
    for (uint8_t k = 0; k < bus->count; k++) {
        if (!states[bus->servos[k]].is_identified) {
            return false;
        }
    }
    return true;
}

static bool can_answer_together(const struct bus *bus)
{
    for (uint8_t k = 0; k < bus->count; k++) {
        if (!states[bus->servos[k]].answers_together) {
            return false;
        }
    }
    return bus->complete >= COMPLETE_ANSWERS;
}

/* What is asked for after `block`, of those that are asked for in turn. */
static enum servo_block after(enum servo_block block)
{
    switch (block) {
    case SERVO_CONDITION:
        return SERVO_HEALTH;
    case SERVO_HEALTH:
        return SERVO_IDENTITY;
    default:
        return SERVO_CONDITION;
    }
}

static enum servo_block next_in_turn(const struct bus *bus)
{
    enum servo_block block = after(bus->turn);
    while (!servo_protocol_reads(block) || (block == SERVO_IDENTITY && are_all_identified(bus))) {
        block = after(block);
    }
    return block;
}

/* Chooses what to ask for, or SERVO_BLOCKS. A block that is asked for in turn waits one step for the motion, no
 * longer. */
static enum servo_block choose_block(const struct joint_table *table, const struct bus *bus)
{
    const uint32_t period = table->servo_hz / TURNS_PER_SECOND;
    const bool motion_due = bus->motion_steps >= table->bus.measure_steps;
    if (bus->condition_due) {
        return SERVO_CONDITION;
    }
    if (bus->turn_steps >= period + (motion_due ? 1u : 0u)) {
        return next_in_turn(bus);
    }
    return motion_due ? SERVO_MOTION : SERVO_BLOCKS;
}

static void note_request(struct bus *bus, enum servo_block block, bool together)
{
    bus->waiting = true;
    bus->waited = 0;
    bus->asked = block;
    bus->asked_together = together;
    for (uint8_t k = 0; k < bus->count; k++) {
        states[bus->servos[k]].answered = false;
    }
    if (block == SERVO_MOTION) {
        bus->motion_steps = 0;
        return;
    }
    bus->turn = block;
    bus->turn_steps = 0;
    bus->condition_due = bus->condition_due && block != SERVO_CONDITION;
}

static void note_switch(struct bus *bus)
{
    bus->stage = STAGE_DONE;
    bus->condition_due = true;
    for (uint8_t k = 0; k < bus->count; k++) {
        servo_state_switch(&states[bus->servos[k]]);
    }
}

static size_t add_goals(const struct joint_table *table, const struct bus *bus, uint8_t *packet)
{
    uint8_t ids[SERVO_MOST_ON_BUS];
    int32_t goals[SERVO_MOST_ON_BUS];
    const uint8_t count = list_commanded(table, bus, bus->stage != STAGE_DONE, ids, goals);
    return count > 0 ? servo_protocol_goals(ids, goals, count, packet) : 0;
}

static size_t add_switch(const struct joint_table *table, const struct bus *bus, uint8_t *packet)
{
    uint8_t ids[SERVO_MOST_ON_BUS];
    int32_t goals[SERVO_MOST_ON_BUS];
    const uint8_t count = list_commanded(table, bus, true, ids, goals);
    return servo_protocol_torque(ids, count, torque_now == TORQUE_ON, packet);
}

static size_t add_request(const struct joint_table *table, const struct bus *bus, enum servo_block block,
                          bool together, uint8_t *packet)
{
    uint8_t ids[SERVO_MOST_ON_BUS];
    for (uint8_t k = 0; k < bus->count; k++) {
        ids[k] = table->servos[bus->servos[k]].id;
    }
    return servo_protocol_request(block, together, ids, bus->count, packet);
}

/* Sends what is to be sent in this step. A bus that still sends the step before gets nothing, and the next step tries
 * again. */
static void send(const struct joint_table *table, uint8_t number)
{
    static uint8_t packets[2 * SERVO_MOST_PACKET];
    struct bus *bus = &buses[number];
    const bool switches = bus->stage == STAGE_SWITCH;
    const bool together = can_answer_together(bus);
    const enum servo_block block = switches ? SERVO_BLOCKS : choose_block(table, bus);
    size_t size = torque_now == TORQUE_ON ? add_goals(table, bus, packets) : 0;
    if (switches) {
        size += add_switch(table, bus, packets + size);
    } else if (block != SERVO_BLOCKS) {
        size += add_request(table, bus, block, together, packets + size);
    }
    servo_protocol_reset(number); /* the bus is quiet: what came before is complete or never will be */
    if (size == 0 || !board_bus_write(number, packets, size)) {
        return;
    }
    if (switches) {
        note_switch(bus);
    } else if (block != SERVO_BLOCKS) {
        note_request(bus, block, together && block == SERVO_MOTION);
    }
    bus->stage = bus->stage == STAGE_GOALS_FIRST ? STAGE_SWITCH : bus->stage;
}

static enum torque_stage first_stage(enum torque torque)
{
    if (torque == TORQUE_ON) {
        return STAGE_GOALS_FIRST;
    }
    return torque == TORQUE_OFF ? STAGE_SWITCH : STAGE_DONE;
}

void actuators_command(const struct joint_table *table, const struct joint_motion *motion, enum torque torque)
{
    const bool changes = torque != torque_now;
    torque_now = torque;
    for (uint8_t i = 0; i < table->count; i++) {
        commanded[i] = motion[i].position;
    }
    for (uint8_t number = 0; number < used_buses(table); number++) {
        struct bus *bus = &buses[number];
        bus->stage = changes ? first_stage(torque) : bus->stage;
        bus->motion_steps = (uint16_t)(bus->motion_steps + (bus->motion_steps < UINT16_MAX));
        bus->turn_steps = (uint16_t)(bus->turn_steps + (bus->turn_steps < UINT16_MAX));
        if (bus->count > 0 && !bus->waiting) {
            send(table, number);
        }
    }
}
