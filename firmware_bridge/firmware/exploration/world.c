#include "world.h"

#include <string.h>

#include "board.h"
#include "frame_encoder.h"
#include "host_board.h"

enum { SMOOTH_STEPS = 5, WILD_STEPS = 24, WILD_SWING = 6, LATE_TICKS = 3, OVERRUN_TICKS = 26, LEAD_TICKS = 2, RING_LOOKED_AT = 32 };

/* What is promised, whatever the core says of itself. */
enum { PROMISED_SILENCE_MS = 200, PROMISED_STARVATION_MS = 100 };

static const float SLACK = 2.4e-7f; /* float32 at the largest position of the joints: one unit in the last place */

const struct world_letter world_letters[WORLD_LETTERS] = {
    {'.', "nothing but a heartbeat"},
    {'q', "quiet: no heartbeat"},
    {'h', "hello of a host of this version"},
    {'u', "hello of a host of another version"},
    {'a', "ARM"},
    {'d', "DISARM"},
    {'k', "CLEAR"},
    {'e', "ESTOP"},
    {'p', "the e-stop pin is pressed for one tick"},
    {'c', "a chunk within the limits"},
    {'w', "a chunk of wild jumps between the ends of the range"},
    {'s', "the interrupt comes three ticks late"},
    {'l', "the interrupt comes 26 ticks late"},
    {'r', "the watchdog resets the board"},
};

bool world_seen[SAFETY_EVENTS][SAFETY_STATES];

static uint8_t discarded[1 << 16];

static uint32_t ticks_of(uint32_t ms)
{
    return ms * host_control()->table->control_hz / 1000u;
}

static void poll(void)
{
    host_poll();
    (void)host_take_sent(discarded, sizeof discarded);
}

static void send(struct world *world, uint8_t type, const uint8_t *payload, size_t size)
{
    uint8_t wire[FRAME_WIRE_SIZE];
    host_receive(wire, frame_encode(type, world->seq, payload, size, wire));
    world->seq++;
    poll();
}

static void send_hello(struct world *world, uint32_t schema)
{
    const struct link_hello hello = {.schema_hash = schema};
    uint8_t payload[8];
    send(world, LINK_HELLO_ID, payload, link_pack_hello(&hello, payload));
}

static void send_ping(struct world *world)
{
    const struct link_ping ping = {.ping_id = 1};
    uint8_t payload[16];
    send(world, LINK_PING_ID, payload, link_pack_ping(&ping, payload));
}

static void send_command(struct world *world, uint8_t command)
{
    const struct link_command_request request = {.nonce = ++world->nonce, .command = command};
    uint8_t payload[8];
    send(world, LINK_COMMAND_REQUEST_ID, payload, link_pack_command_request(&request, payload));
}

/* Smooth: on from where the joint is, back and forth around home at four fifths of its velocity limit. */
static int16_t smooth_counts(const struct control *control, uint8_t joint, uint8_t step)
{
    const struct joint *j = &control->table->joints[joint];
    const float here = control->motion[joint].position;
    const float way = 0.8f * j->velocity / (float)control->table->control_hz * (float)(step + 1);
    return (int16_t)((here > j->home ? here - way : here + way) / j->resolution);
}

static int16_t wild_counts(const struct control *control, uint8_t joint, uint8_t step)
{
    const struct joint *j = &control->table->joints[joint];
    return (int16_t)((step / WILD_SWING % 2u == 0 ? j->maximum : j->minimum) / j->resolution);
}

static void send_chunk(struct world *world, uint8_t steps, int16_t (*counts)(const struct control *, uint8_t, uint8_t))
{
    const struct control *control = host_control();
    const uint8_t joints = control->table->count;
    struct link_fragment fragment = {.chunk_id = ++world->chunk_id,
                                     .first_tick = world->tick + LEAD_TICKS,
                                     .step_count = steps,
                                     .fragment_count = 1,
                                     .steps = steps,
                                     .joints = joints};
    for (uint8_t step = 0; step < steps; step++) {
        for (uint8_t joint = 0; joint < joints; joint++) {
            fragment.values[step * joints + joint] = counts(control, joint, step);
        }
    }
    const uint32_t before = control->counters.chunks_accepted;
    uint8_t payload[LINK_MAX_PAYLOAD];
    send(world, LINK_FRAGMENT_ID, payload, link_pack_fragment(&fragment, payload));
    world->accepted = world->accepted || control->counters.chunks_accepted != before;
}

static float size_of(float value)
{
    return value < 0.0f ? -value : value;
}

static bool is_active(uint8_t state)
{
    return state == LINK_STATE_ARMED || state == LINK_STATE_RUNNING || state == LINK_STATE_STARVED;
}

/* The servo steps in which every joint can brake from its velocity limit to rest. */
static float steps_to_rest(void)
{
    const struct control *control = host_control();
    float longest = 0.0f;
    for (uint8_t i = 0; i < control->table->count; i++) {
        const float steps = control->limits[i].max_step / control->limits[i].max_change + 2.0f;
        longest = steps > longest ? steps : longest;
    }
    return longest;
}

/* What must hold after every servo step. `evenly`: exactly one step was executed. */
static const char *check_step(struct world *world, const struct joint_motion *before, bool evenly)
{
    const struct control *control = host_control();
    const bool braking = !is_active((uint8_t)control->safety.state);
    const float longest = steps_to_rest();
    world->braking_steps = braking ? world->braking_steps + 1u : 0u;
    for (uint8_t i = 0; i < control->table->count; i++) {
        const struct motion_limits *limits = &control->limits[i];
        const struct joint_motion *motion = &control->motion[i];
        const float speed = size_of(motion->velocity);
        if (!(motion->position >= limits->minimum && motion->position <= limits->maximum)) {
            return "a joint left its position limits";
        }
        if (!(speed <= limits->max_step + SLACK)) {
            return "a joint exceeded its velocity limit";
        }
        if (evenly && !(size_of(motion->velocity - before[i].velocity) <= limits->max_change + 2.0f * SLACK)) {
            return "a joint exceeded its acceleration limit";
        }
        const float slower = size_of(before[i].velocity) - limits->max_change;
        if (evenly && braking && speed > (slower > 0.0f ? slower : 0.0f) + SLACK) {
            return "a joint did not brake where it must";
        }
        if ((float)world->braking_steps > longest && speed > 0.0f) {
            return "a joint is not at rest in time";
        }
    }
    return NULL;
}

static void note(enum safety_event event, uint8_t from)
{
    world_seen[event][from] = true;
}

/* Whether the table leads from one state to the other by this event; notes it. */
static bool leads(uint8_t from, uint8_t to, enum safety_event event)
{
    const bool led = safety_transitions[event][from] == to;
    if (led) {
        note(event, from);
    }
    return led;
}

static const char *check_command(enum safety_event event, uint8_t from, uint8_t to)
{
    const uint8_t next = safety_transitions[event][from];
    const bool guarded = event == SAFETY_EVENT_ARM || event == SAFETY_EVENT_CLEAR;
    if (host_control()->answered.result != LINK_COMMAND_RESULT_OK) {
        return from == to && (guarded || next == SAFETY_NO_TRANSITION) ? NULL : "a command was refused wrongly";
    }
    if (next == SAFETY_NO_TRANSITION || next != to) {
        return "a command led where the table does not";
    }
    note(event, from);
    return NULL;
}

static const char *give(struct world *world, uint8_t command, enum safety_event event)
{
    const struct control *control = host_control();
    const uint8_t from = (uint8_t)control->safety.state;
    const bool may_clear = control_is_at_rest(control);
    const bool may_arm = control->safety.faults == 0 && control->safety.peer_known &&
                         world->silent_ticks < ticks_of(PROMISED_SILENCE_MS);
    send_command(world, command);
    const bool done = control->answered.result == LINK_COMMAND_RESULT_OK;
    if (done && ((command == LINK_COMMAND_CLEAR && !may_clear) || (command == LINK_COMMAND_ARM && !may_arm))) {
        return "a command was accepted too early";
    }
    return check_command(event, from, (uint8_t)host_control()->safety.state);
}

/* Whether the state after a servo step is where the table leads: by the fault that is new, or, in the first step of a
 * tick, by its setpoint. */
static const char *check_transition(uint8_t from, uint16_t faults_before, bool first, bool due)
{
    const struct safety *safety = &host_control()->safety;
    const uint8_t to = (uint8_t)safety->state;
    const unsigned faults = safety->faults & ~(unsigned)faults_before;
    const struct {
        unsigned fault;
        enum safety_event event;
    } kinds[] = {{LINK_FAULT_ESTOP_PIN, SAFETY_EVENT_ESTOP_PIN},
                 {LINK_FAULT_HEARTBEAT, SAFETY_EVENT_HEARTBEAT},
                 {LINK_FAULT_TICK_OVERRUN, SAFETY_EVENT_TICK_OVERRUN},
                 {LINK_FAULT_LIMIT_SATURATION, SAFETY_EVENT_LIMIT_SATURATION},
                 {LINK_FAULT_STARVATION, SAFETY_EVENT_STARVATION}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if ((faults & kinds[i].fault) != 0) {
            return leads(from, to, kinds[i].event) ? NULL : "a fault led where the table does not";
        }
    }
    if (from == to && !first) {
        return NULL;
    }
    const bool led = first && leads(from, to, due ? SAFETY_EVENT_SETPOINT : SAFETY_EVENT_NO_SETPOINT);
    return led || from == to ? NULL : "a step led where the table does not";
}

/* Promises over many ticks, counted by the world itself. */
static const char *check_history(struct world *world, bool due)
{
    const struct control *control = host_control();
    const uint8_t state = (uint8_t)control->safety.state;
    if (is_active(state) && world->silent_ticks >= ticks_of(PROMISED_SILENCE_MS)) {
        return "the arm stayed active without a heartbeat";
    }
    const bool starving = state == LINK_STATE_STARVED && !due && control_is_at_rest(control);
    world->resting_ticks = starving ? world->resting_ticks + 1u : 0u;
    if (world->resting_ticks > ticks_of(PROMISED_STARVATION_MS)) {
        return "the arm stayed active without setpoints";
    }
    if (!is_active(state)) {
        world->accepted = false;
    }
    if (control->following && !world->accepted) {
        return "setpoints were followed that were not sent since the arm was armed";
    }
    return NULL;
}

/* Runs the servo interrupt at one step of `tick`. `evenly`: right after the step before. */
static const char *run_step(struct world *world, uint32_t tick, uint32_t step, bool evenly)
{
    const struct control *control = host_control();
    const uint8_t from = (uint8_t)control->safety.state;
    const uint16_t faults = control->safety.faults;
    const bool due = setpoint_ring_at(&control->ring, tick) != NULL;
    struct joint_motion before[LINK_MAX_JOINTS];
    memcpy(before, control->motion, sizeof before);
    host_servo(tick, step);
    if (board_estop_pressed() && control->safety.state != LINK_STATE_ESTOP) {
        return "the e-stop pin did not act at once";
    }
    const char *violated = check_step(world, before, evenly);
    if (violated == NULL) {
        violated = check_transition(from, faults, step == 0, due);
    }
    if (violated == NULL && step == 0) {
        violated = check_history(world, due);
    }
    return violated;
}

/* From the middle of the current tick to that of the next, or of a later one where the interrupt comes late. */
static const char *run_tick(struct world *world, uint32_t elapsed)
{
    const struct control *control = host_control();
    const char *violated = NULL;
    for (uint32_t step = control->servo_step + 1u; elapsed == 1 && step < control->servo_steps && violated == NULL; step++) {
        violated = run_step(world, world->tick, step, true);
    }
    world->tick += elapsed;
    for (uint32_t step = 0; step <= control->servo_steps / 2u && violated == NULL; step++) {
        violated = run_step(world, world->tick, step, elapsed == 1 || step > 0);
    }
    poll();
    return violated;
}

static const char *pass(struct world *world, uint32_t elapsed, bool heartbeat, bool pressed)
{
    if (heartbeat) {
        send_ping(world);
        world->silent_ticks = 0;
    } else {
        world->silent_ticks += elapsed < SAFETY_COUNTED_ELAPSED ? elapsed : SAFETY_COUNTED_ELAPSED;
    }
    host_press_estop(pressed);
    const char *violated = run_tick(world, elapsed);
    host_press_estop(false);
    return violated;
}

static const char *estop(struct world *world)
{
    const char *violated = give(world, LINK_COMMAND_ESTOP, SAFETY_EVENT_ESTOP_COMMAND);
    return violated != NULL || host_control()->safety.state == LINK_STATE_ESTOP ? violated : "ESTOP did not act at once";
}

static void reset(struct world *world, enum link_reset_cause cause)
{
    host_reset((uint8_t)cause);
    world->tick = 0;
    world->seq = 0;
    world->silent_ticks = ticks_of(PROMISED_SILENCE_MS);
    world->braking_steps = 0;
    world->resting_ticks = 0;
    world->accepted = false;
}

static const char *act(struct world *world, char letter)
{
    switch (letter) {
    case 'h':
        send_hello(world, LINK_SCHEMA_HASH);
        return NULL;
    case 'u':
        send_hello(world, LINK_SCHEMA_HASH ^ 1u);
        return NULL;
    case 'a':
        return give(world, LINK_COMMAND_ARM, SAFETY_EVENT_ARM);
    case 'd':
        return give(world, LINK_COMMAND_DISARM, SAFETY_EVENT_DISARM);
    case 'k':
        return give(world, LINK_COMMAND_CLEAR, SAFETY_EVENT_CLEAR);
    case 'e':
        return estop(world);
    case 'c':
        send_chunk(world, SMOOTH_STEPS, smooth_counts);
        return NULL;
    case 'w':
        send_chunk(world, WILD_STEPS, wild_counts);
        return NULL;
    case 'r':
        reset(world, LINK_RESET_CAUSE_WATCHDOG);
        return NULL;
    default:
        return NULL;
    }
}

static const char *play_here(struct world *world, char letter)
{
    const char *violated = act(world, letter);
    if (violated != NULL) {
        return violated;
    }
    const uint32_t late = letter == 's' ? LATE_TICKS : 1u;
    return pass(world, letter == 'l' ? OVERRUN_TICKS : late, strchr("qslr", letter) == NULL, letter == 'p');
}

void world_begin(struct world *world)
{
    memset(world, 0, sizeof *world);
    reset(world, LINK_RESET_CAUSE_POWER_ON);
    world->control = *host_control();
}

const char *world_play(struct world *world, char letter)
{
    *host_control() = world->control;
    const char *violated = play_here(world, letter);
    world->control = *host_control();
    return violated;
}

const char *world_settle(struct world *world, uint32_t *ticks)
{
    const char *violated = NULL;
    *host_control() = world->control;
    const struct control *control = host_control();
    const uint32_t braking = (uint32_t)(steps_to_rest() / (float)control->servo_steps) + 1u;
    *ticks = 0;
    while (violated == NULL && (is_active((uint8_t)control->safety.state) || !control_is_at_rest(control))) {
        violated = pass(world, 1, false, false);
        ++*ticks;
        if (violated == NULL && *ticks > ticks_of(PROMISED_SILENCE_MS) + braking) {
            violated = "the arm did not come to rest after the host fell silent";
        }
    }
    world->control = *control;
    return violated;
}

/* FNV-1a. */
static uint64_t mix(uint64_t hash, const void *data, size_t size)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001B3);
    }
    return hash;
}

static uint64_t mix_ring(uint64_t hash, const struct world *world)
{
    const struct control *control = &world->control;
    for (uint32_t ahead = 0; ahead < RING_LOOKED_AT; ahead++) {
        const struct setpoint *setpoint = setpoint_ring_at(&control->ring, world->tick + ahead);
        const uint8_t present = setpoint != NULL;
        hash = mix(hash, &present, 1);
        if (present) {
            hash = mix(hash, setpoint->counts, control->table->count * sizeof setpoint->counts[0]);
        }
    }
    return hash;
}

uint64_t world_hash(const struct world *world)
{
    const struct control *control = &world->control;
    const struct safety *safety = &control->safety;
    const uint32_t longest = ticks_of(PROMISED_SILENCE_MS);
    const uint32_t words[] = {(uint32_t)safety->state,
                              safety->faults,
                              safety->silent_ticks,
                              is_active((uint8_t)safety->state) ? safety->starved_ticks : 0u,
                              safety->saturated_ticks,
                              safety->peer_known,
                              control->servo_step,
                              control->following,
                              control->saturated,
                              world->silent_ticks < longest ? world->silent_ticks : longest,
                              world->accepted};
    uint64_t hash = mix(UINT64_C(0xCBF29CE484222325), words, sizeof words);
    for (uint8_t i = 0; i < control->table->count; i++) {
        hash = mix(hash, &control->motion[i], sizeof control->motion[i]);
        if (control->following) {
            hash = mix(hash, &control->curves[i], sizeof control->curves[i]);
        }
    }
    return mix_ring(hash, world);
}
