#include "model_invariants.h"

#include "host_board.h"

/* The limits of docs/safety.md, stated here once more so that a wrong constant of the core is found. */
enum { HEARTBEAT_LIMIT_MS = 200, STARVATION_LIMIT_MS = 100 };

enum { LOOKED_AHEAD = 32 }; /* ticks: more than any chunk of the model reaches */

static const unsigned GUARD_FAULTS = LINK_FAULT_FOLLOWING_ERROR | LINK_FAULT_CONTACT | LINK_FAULT_TEMPERATURE |
                                     LINK_FAULT_VOLTAGE | LINK_FAULT_BUS_SILENT | LINK_FAULT_SERVO_ERROR;

static const float ROUNDING = 2.4e-7f; /* float32 at the largest position of the joints: one unit in the last place */

bool model_transitions_seen[SAFETY_EVENTS][SAFETY_STATES];

static uint32_t ticks_of(uint32_t ms)
{
    return ms * host_control()->table->control_hz / 1000u;
}

uint32_t model_heartbeat_limit(void)
{
    return ticks_of(HEARTBEAT_LIMIT_MS);
}

static float magnitude(float value)
{
    return value < 0.0f ? -value : value;
}

bool model_is_active(uint8_t state)
{
    return state == LINK_STATE_ARMED || state == LINK_STATE_RUNNING || state == LINK_STATE_STARVED;
}

float model_steps_to_rest(void)
{
    const struct control *control = host_control();
    float longest = 0.0f;
    for (uint8_t i = 0; i < control->table->count; i++) {
        const float steps = control->limits[i].max_step / control->limits[i].max_change + 2.0f;
        longest = steps > longest ? steps : longest;
    }
    return longest;
}

float model_steps_of_relief(void)
{
    const struct control *control = host_control();
    float longest = 0.0f;
    for (uint8_t i = 0; i < control->table->count; i++) {
        const struct motion_limits *limits = &control->limits[i];
        const float steps = (limits->maximum - limits->minimum) / limits->max_step;
        longest = steps > longest ? steps : longest;
    }
    return longest + 2.0f * model_steps_to_rest();
}

/* Without torque, a joint is where its encoder says. An arm that may move has torque. */
static const char *check_without_torque(const struct control *control)
{
    if (model_is_active((uint8_t)control->safety.state)) {
        return "the arm is active without torque";
    }
    for (uint8_t i = 0; i < control->table->count; i++) {
        const struct motion_limits *limits = &control->limits[i];
        const struct joint_motion *motion = &control->motion[i];
        if (!(motion->position >= limits->minimum && motion->position <= limits->maximum)) {
            return "a joint left its position limits";
        }
        if (magnitude(motion->velocity) > 0.0f) {
            return "a joint without torque is commanded to move";
        }
    }
    return NULL;
}

/* A joint moves to where it was measured only after a contact, from rest, and arrives in time. */
static const char *check_relief(struct model *model)
{
    const struct control *control = host_control();
    const unsigned contact = LINK_FAULT_CONTACT | LINK_FAULT_FOLLOWING_ERROR;
    model->relief_steps = control->relieving ? model->relief_steps + 1u : 0u;
    if (!control->relieving) {
        return NULL;
    }
    if (control->safety.state != LINK_STATE_SAFE || (control->safety.faults & contact) == 0) {
        return "the arm moved away without a contact";
    }
    if ((float)model->relief_steps > model_steps_of_relief() && !control_is_at_rest(control)) {
        return "the arm did not come to rest after a contact";
    }
    return NULL;
}

const char *model_check_step(struct model *model, const struct joint_motion *before, bool evenly)
{
    const struct control *control = host_control();
    const char *violated = control->torque == TORQUE_ON ? check_relief(model) : check_without_torque(control);
    if (violated != NULL || control->torque != TORQUE_ON) {
        return violated;
    }
    const bool braking = !model_is_active((uint8_t)control->safety.state) && !control->relieving;
    const float longest = model_steps_to_rest();
    model->braking_steps = braking ? model->braking_steps + 1u : 0u;
    for (uint8_t i = 0; i < control->table->count; i++) {
        const struct motion_limits *limits = &control->limits[i];
        const struct joint_motion *motion = &control->motion[i];
        const float speed = magnitude(motion->velocity);
        if (!(motion->position >= limits->minimum && motion->position <= limits->maximum)) {
            return "a joint left its position limits";
        }
        if (!(speed <= limits->max_step + ROUNDING)) {
            return "a joint exceeded its velocity limit";
        }
        if (evenly && !(magnitude(motion->velocity - before[i].velocity) <= limits->max_change + 2.0f * ROUNDING)) {
            return "a joint exceeded its acceleration limit";
        }
        const float slower = magnitude(before[i].velocity) - limits->max_change;
        if (evenly && braking && speed > (slower > 0.0f ? slower : 0.0f) + ROUNDING) {
            return "a joint did not brake where it must";
        }
        if ((float)model->braking_steps > longest && speed > 0.0f) {
            return "a joint is not at rest in time";
        }
    }
    return NULL;
}

static void record_transition(enum safety_event event, uint8_t from)
{
    model_transitions_seen[event][from] = true;
}

/* Whether the table leads from one state to the other by this event; if so, records the entry. */
static bool matches_table(uint8_t from, uint8_t to, enum safety_event event)
{
    const bool matches = safety_transitions[event][from] == to;
    if (matches) {
        record_transition(event, from);
    }
    return matches;
}

const char *model_check_command(enum safety_event event, uint8_t from)
{
    const uint8_t to = (uint8_t)host_control()->safety.state;
    const uint8_t next = safety_transitions[event][from];
    const bool guarded =
        event == SAFETY_EVENT_ARM || event == SAFETY_EVENT_CLEAR || event == SAFETY_EVENT_RELEASE;
    if (host_control()->answered.result != LINK_COMMAND_RESULT_OK) {
        const bool may_refuse = from == to && (guarded || next == SAFETY_NO_TRANSITION);
        return may_refuse ? NULL : "a command was refused although the table allows it";
    }
    if (next == SAFETY_NO_TRANSITION || next != to) {
        return "a command led to a state that the table does not name";
    }
    record_transition(event, from);
    return NULL;
}

const char *model_check_transition(uint8_t from, uint16_t faults_before, bool first, bool due)
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
                 {GUARD_FAULTS, SAFETY_EVENT_GUARD},
                 {LINK_FAULT_STARVATION, SAFETY_EVENT_STARVATION}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if ((faults & kinds[i].fault) != 0) {
            const bool named = matches_table(from, to, kinds[i].event);
            return named ? NULL : "a fault led to a state that the table does not name";
        }
    }
    if (from == to && !first) {
        return NULL;
    }
    const bool matches = first && matches_table(from, to, due ? SAFETY_EVENT_SETPOINT : SAFETY_EVENT_NO_SETPOINT);
    return matches || from == to ? NULL : "a servo step led to a state that the table does not name";
}

/* A newer chunk replaces all that follows its first setpoint, also while only its head is there. */
static bool is_mixed(const struct control *control)
{
    uint32_t newest = 0;
    for (uint32_t ahead = 1; ahead <= LOOKED_AHEAD; ahead++) {
        const struct setpoint *setpoint = setpoint_ring_at(&control->ring, control->tick + ahead);
        if (setpoint != NULL && setpoint->chunk_id < newest) {
            return true;
        }
        newest = setpoint != NULL ? setpoint->chunk_id : newest;
    }
    return false;
}

const char *model_check_history(struct model *model, bool due)
{
    const struct control *control = host_control();
    const uint8_t state = (uint8_t)control->safety.state;
    if (model_is_active(state) && model->silent_ticks >= model_heartbeat_limit()) {
        return "the arm stayed active without a heartbeat";
    }
    const bool starving = state == LINK_STATE_STARVED && !due && control_is_at_rest(control);
    model->resting_ticks = starving ? model->resting_ticks + 1u : 0u;
    if (model->resting_ticks > ticks_of(STARVATION_LIMIT_MS)) {
        return "the arm stayed active without setpoints";
    }
    if (!model_is_active(state)) {
        model->accepted = false;
    }
    if (is_mixed(control)) {
        return "a setpoint of an older chunk follows one of a newer";
    }
    if (control->following && !model->accepted) {
        return "the arm followed setpoints that were not sent since ARM";
    }
    return NULL;
}
