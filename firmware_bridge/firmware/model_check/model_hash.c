#include "model_invariants.h"

enum { HASHED_SETPOINTS = 32 }; /* from the current tick on */

/* FNV-1a. */
static uint64_t mix(uint64_t hash, const void *data, size_t size)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001B3);
    }
    return hash;
}

/* Field by field: the bytes of the padding have no meaning and differ from run to run. */
static uint64_t mix_curve(uint64_t hash, const struct setpoint_curve *curve)
{
    const float numbers[] = {curve->here, curve->slope, curve->bend, curve->twist, curve->next, curve->end_slope};
    const uint8_t is_corner = curve->is_corner;
    return mix(mix(hash, numbers, sizeof numbers), &is_corner, 1);
}

static uint64_t mix_ring(uint64_t hash, const struct model *model)
{
    const struct control *control = &model->control;
    for (uint32_t ahead = 0; ahead < HASHED_SETPOINTS; ahead++) {
        const struct setpoint *setpoint = setpoint_ring_at(&control->ring, model->tick + ahead);
        const uint8_t present = setpoint != NULL;
        hash = mix(hash, &present, 1);
        if (present) {
            hash = mix(hash, setpoint->counts, control->table->count * sizeof setpoint->counts[0]);
        }
    }
    return hash;
}

/* Without what never decides here: how long the arm has been armed decides only of a servo that has no torque and no error,
 * and the past positions lie nearer to the commanded one than any displacement. */
static uint64_t mix_guards(uint64_t hash, const struct model *model)
{
    const struct control *control = &model->control;
    const float numbers[] = {model->measured.position, model->measured.current, model->measured.volts};
    hash = mix(hash, numbers, sizeof numbers);
    hash = mix(hash, model->held_ticks, sizeof model->held_ticks);
    if (model_is_active((uint8_t)control->safety.state)) {
        hash = mix(hash, control->guards.ticks[0], sizeof control->guards.ticks[0]);
    }
    return control->relieving ? mix(hash, control->relief, control->table->count * sizeof control->relief[0]) : hash;
}

uint64_t model_hash(const struct model *model)
{
    const struct control *control = &model->control;
    const struct safety *safety = &control->safety;
    const uint32_t longest = model_heartbeat_limit();
    const uint32_t words[] = {(uint32_t)safety->state,
                              safety->faults,
                              safety->silent_ticks,
                              model_is_active((uint8_t)safety->state) ? safety->starved_ticks : 0u,
                              safety->saturated_ticks,
                              safety->peer_known,
                              control->servo_step,
                              control->following,
                              control->saturated,
                              (uint32_t)control->torque,
                              control->relieving,
                              control->fault_joint,
                              model->age,
                              model->measured.flags,
                              model->measured.temperature,
                              model->silent_ticks < longest ? model->silent_ticks : longest,
                              model->accepted};
    uint64_t hash = mix(UINT64_C(0xCBF29CE484222325), words, sizeof words);
    hash = mix_guards(hash, model);
    for (uint8_t i = 0; i < control->table->count; i++) {
        hash = mix(hash, &control->motion[i], sizeof control->motion[i]);
        if (control->following) {
            hash = mix_curve(hash, &control->curves[i]);
        }
    }
    return mix_ring(hash, model);
}
