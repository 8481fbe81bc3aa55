#include "model_servo.h"

#include "host_board.h"
#include "model_invariants.h"

/* The limits of the robot of firmware_bridge/lockstep/model_check.py, and values beyond them. */
static const float ORDINARY_CURRENT = 0.5f;
static const float OVER_CURRENT = 2.5f;
static const float ORDINARY_VOLTS = 12.0f;
static const float LOW_VOLTS = 9.0f;
static const float DISPLACEMENT = 0.6f;
static const float OUTSIDE = 0.02f; /* of its range: so far outside its limits a joint may be armed */
enum { ORDINARY_TEMPERATURE = 40, OVER_TEMPERATURE = 80 };

/* The times of docs/safety.md, stated here once more so that a wrong constant of the core is found. */
static const struct {
    char code;
    uint16_t limit_ms;
    const char *violated;
} conditions[MODEL_CONDITIONS] = {
    {'f', 200, "the arm stayed active although a joint was away from its commanded position"},
    {'i', 100, "the arm stayed active although a joint drew too much current"},
    {'t', 1000, "the arm stayed active although a servo was too hot"},
    {'v', 200, "the arm stayed active although the supply was too low"},
    {'x', 100, "the arm stayed active although a servo had lost its torque"},
};
enum { SILENCE_LIMIT_MS = 200 };

void model_servo_begin(struct model *model, char code)
{
    model->servo_event = code;
    const float home = host_control()->table->joints[0].home;
    model->displacement = host_control()->motion[0].position > home ? -DISPLACEMENT : DISPLACEMENT;
}

void model_servo_measure(struct model *model)
{
    const char event = model->servo_event;
    const bool silent = event == 'b';
    model->age = silent ? model->age + (model->age < MEASUREMENT_TOO_OLD) : 0u;
    if (!silent) {
        const float commanded = host_control()->motion[0].position;
        model->measured = (struct joint_measurement){
            .position = event == 'f' ? commanded + model->displacement : commanded,
            .current = event == 'i' ? -OVER_CURRENT : ORDINARY_CURRENT,
            .volts = event == 'v' ? LOW_VOLTS : ORDINARY_VOLTS,
            .temperature = event == 't' ? OVER_TEMPERATURE : ORDINARY_TEMPERATURE,
            .flags = LINK_JOINT_FLAG_MEASURED |
                     (event == 'x' ? LINK_JOINT_FLAG_RESTARTED : (unsigned)LINK_JOINT_FLAG_TORQUE),
        };
    }
    model->measured.age = (uint8_t)model->age;
    host_measure(0, &model->measured);
}

static uint32_t limit_of(uint8_t condition)
{
    return conditions[condition].limit_ms * host_control()->table->control_hz / 1000u;
}

void model_servo_count(struct model *model, bool was_active)
{
    for (uint8_t i = 0; i < MODEL_CONDITIONS; i++) {
        const bool holds = was_active && model->servo_event == conditions[i].code;
        model->held_ticks[i] = holds ? model->held_ticks[i] + (model->held_ticks[i] < limit_of(i)) : 0u;
    }
}

bool model_servo_allows_arm(const struct model *model)
{
    const struct control *control = host_control();
    const struct motion_limits *limits = &control->limits[0];
    const float margin = OUTSIDE * (limits->maximum - limits->minimum);
    const float position = control->measured[0].position;
    const bool inside = position >= limits->minimum - margin && position <= limits->maximum + margin;
    return inside && model->age * 1000u < SILENCE_LIMIT_MS * control->table->servo_hz;
}

const char *model_servo_check(const struct model *model)
{
    if (!model_is_active((uint8_t)host_control()->safety.state)) {
        return NULL;
    }
    for (uint8_t i = 0; i < MODEL_CONDITIONS; i++) {
        if (model->held_ticks[i] >= limit_of(i)) {
            return conditions[i].violated;
        }
    }
    const struct joint_table *table = host_control()->table;
    const uint32_t tick_ms = 1000u / table->control_hz;
    const bool silent = model->age * 1000u >= (SILENCE_LIMIT_MS + tick_ms) * table->servo_hz;
    return silent ? "the arm stayed active although the bus was silent" : NULL;
}
