#include "model.h"

#include <string.h>

#include "board.h"
#include "host_board.h"
#include "model_invariants.h"
#include "model_messages.h"
#include "model_servo.h"

enum { LATE_TICKS = 3, OVERRUN_TICKS = 26 };

const struct model_event model_events[MODEL_EVENTS] = {
    {'.', "a heartbeat and nothing else"},
    {'q', "no heartbeat"},
    {'h', "HELLO of a host with these messages"},
    {'u', "HELLO of a host with other messages"},
    {'a', "ARM"},
    {'d', "DISARM"},
    {'k', "CLEAR"},
    {'e', "ESTOP"},
    {'p', "the e-stop contact is open for one tick"},
    {'c', "a chunk within the limits"},
    {'n', "a chunk within the limits that begins later, as the rest of one whose head came in the tick before"},
    {'w', "a chunk that jumps between the ends of the range"},
    {'s', "the servo interrupt comes after three ticks"},
    {'l', "the servo interrupt comes after 26 ticks"},
    {'r', "the watchdog resets the board; no heartbeat"},
    {'y', "RELEASE"},
    {'z', "a chunk that begins at the far end of the range"},
    {'f', "the servo is away from its commanded position"},
    {'i', "the servo draws too much current"},
    {'t', "the servo is too hot"},
    {'v', "the supply is too low"},
    {'x', "the servo restarted and has no torque"},
    {'b', "the bus is silent"},
};

static const char *apply_command(struct model *model, uint8_t command, enum safety_event event)
{
    const struct control *control = host_control();
    const uint8_t from = (uint8_t)control->safety.state;
    const bool may_clear = control_is_at_rest(control);
    const bool may_arm = control->safety.faults == 0 && control->safety.peer_known &&
                         model->silent_ticks < model_heartbeat_limit() && model_servo_allows_arm(model);
    model_send_command(model, command);
    const bool done = control->answered.result == LINK_COMMAND_RESULT_OK;
    if (done && ((command == LINK_COMMAND_CLEAR && !may_clear) ||
                 (command == LINK_COMMAND_RELEASE && !may_clear) || (command == LINK_COMMAND_ARM && !may_arm))) {
        return "a command was accepted too early";
    }
    return model_check_command(event, from);
}

/* Runs the servo interrupt at one step of `tick`. `evenly`: right after the step before. */
static const char *run_step(struct model *model, uint32_t tick, uint32_t step, bool evenly)
{
    const struct control *control = host_control();
    const uint8_t from = (uint8_t)control->safety.state;
    const uint16_t faults = control->safety.faults;
    const bool due = setpoint_ring_at(&control->ring, tick) != NULL;
    struct joint_motion before[LINK_MAX_JOINTS];
    memcpy(before, control->motion, sizeof before);
    model_servo_measure(model);
    host_servo(tick, step);
    if (board_estop_pressed() && control->safety.state != LINK_STATE_ESTOP) {
        return "the e-stop pin did not act at once";
    }
    const char *violated = model_check_step(model, before, evenly);
    if (violated == NULL) {
        violated = model_check_transition(from, faults, step == 0, due);
    }
    if (violated == NULL && step == 0) {
        violated = model_check_history(model, due);
        model_servo_count(model, model_is_active(from));
    }
    if (violated == NULL && step == 0) {
        violated = model_servo_check(model);
    }
    return violated;
}

/* From the middle of the current tick to that of the next, or of a later one where the interrupt comes late. */
static const char *run_tick(struct model *model, uint32_t elapsed)
{
    const struct control *control = host_control();
    const char *violated = NULL;
    uint32_t step = control->servo_step + 1u;
    for (; elapsed == 1 && step < control->servo_steps && violated == NULL; step++) {
        violated = run_step(model, model->tick, step, true);
    }
    model->tick += elapsed;
    for (step = 0; step <= control->servo_steps / 2u && violated == NULL; step++) {
        violated = run_step(model, model->tick, step, elapsed == 1 || step > 0);
    }
    model_poll();
    return violated;
}

/* Executes one tick with or without a heartbeat and with the e-stop contact open (`pressed`) or closed. */
static const char *apply_tick(struct model *model, uint32_t elapsed, bool heartbeat, bool pressed)
{
    if (heartbeat) {
        model_send_ping(model);
        model->silent_ticks = 0;
    } else {
        model->silent_ticks += elapsed < SAFETY_COUNTED_ELAPSED ? elapsed : SAFETY_COUNTED_ELAPSED;
    }
    host_press_estop(pressed);
    const char *violated = run_tick(model, elapsed);
    host_press_estop(false);
    return violated;
}

static const char *apply_estop(struct model *model)
{
    const char *violated = apply_command(model, LINK_COMMAND_ESTOP, SAFETY_EVENT_ESTOP_COMMAND);
    if (violated == NULL && host_control()->safety.state != LINK_STATE_ESTOP) {
        violated = "ESTOP did not act at once";
    }
    return violated;
}

/* An arm at rest cannot be at the far end of its range within two ticks. */
static const char *apply_far_chunk(struct model *model)
{
    const bool at_rest = host_control()->safety.state == LINK_STATE_ARMED;
    const bool accepted = model_send_far_chunk(model);
    return at_rest && accepted ? "a first setpoint out of reach was accepted" : NULL;
}

static void reset_board(struct model *model, enum link_reset_cause cause)
{
    host_reset((uint8_t)cause);
    model->tick = 0;
    model->seq = 0;
    model->silent_ticks = model_heartbeat_limit();
    model->braking_steps = 0;
    model->resting_ticks = 0;
    model->relief_steps = 0;
    model->accepted = false;
    memset(model->held_ticks, 0, sizeof model->held_ticks);
    model_servo_begin(model, '.');
    model_servo_measure(model);
}

static const char *apply_input(struct model *model, char code)
{
    switch (code) {
    case 'h':
        model_send_hello(model, LINK_SCHEMA_HASH);
        return NULL;
    case 'u':
        model_send_hello(model, LINK_SCHEMA_HASH ^ 1u);
        return NULL;
    case 'a':
        return apply_command(model, LINK_COMMAND_ARM, SAFETY_EVENT_ARM);
    case 'd':
        return apply_command(model, LINK_COMMAND_DISARM, SAFETY_EVENT_DISARM);
    case 'k':
        return apply_command(model, LINK_COMMAND_CLEAR, SAFETY_EVENT_CLEAR);
    case 'e':
        return apply_estop(model);
    case 'c':
        model_send_smooth_chunk(model);
        return NULL;
    case 'n':
        model_send_rest(model);
        return NULL;
    case 'w':
        model_send_jump_chunk(model);
        return NULL;
    case 'y':
        return apply_command(model, LINK_COMMAND_RELEASE, SAFETY_EVENT_RELEASE);
    case 'z':
        return apply_far_chunk(model);
    case 'r':
        reset_board(model, LINK_RESET_CAUSE_WATCHDOG);
        return NULL;
    default:
        return NULL;
    }
}

static const char *apply_event(struct model *model, char code)
{
    model_servo_begin(model, code);
    const char *violated = apply_input(model, code);
    if (violated != NULL) {
        return violated;
    }
    const uint32_t late = code == 's' ? LATE_TICKS : 1u;
    return apply_tick(model, code == 'l' ? OVERRUN_TICKS : late, strchr("qslr", code) == NULL, code == 'p');
}

void model_init(struct model *model)
{
    memset(model, 0, sizeof *model);
    reset_board(model, LINK_RESET_CAUSE_POWER_ON);
    model->control = *host_control();
}

const char *model_apply(struct model *model, char code)
{
    *host_control() = model->control;
    const char *violated = apply_event(model, code);
    model->control = *host_control();
    return violated;
}

const char *model_run_to_rest(struct model *model, uint32_t *ticks)
{
    const char *violated = NULL;
    *host_control() = model->control;
    const struct control *control = host_control();
    const uint32_t braking = (uint32_t)(model_steps_to_rest() / (float)control->servo_steps) + 1u;
    const uint32_t relief = (uint32_t)(model_steps_of_relief() / (float)control->servo_steps) + 1u;
    model_servo_begin(model, '.');
    *ticks = 0;
    while (violated == NULL && (model_is_active((uint8_t)control->safety.state) || !control_is_at_rest(control))) {
        violated = apply_tick(model, 1, false, false);
        ++*ticks;
        if (violated == NULL && *ticks > model_heartbeat_limit() + braking + relief) {
            violated = "the arm did not come to rest after the last heartbeat";
        }
    }
    model->control = *control;
    return violated;
}
