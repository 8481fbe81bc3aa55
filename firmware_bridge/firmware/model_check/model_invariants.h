/* The invariants of docs/safety.md, for any behaviour of the host, the pin and the clock.
 *
 * The checks use the limits and the state that the core reports, but measure every time and every motion themselves.
 * Each returns the violated invariant, or a null pointer. */
#ifndef MODEL_INVARIANTS_H
#define MODEL_INVARIANTS_H

#include "model.h"

/* Ticks without a heartbeat after which the arm must be inactive. */
uint32_t model_heartbeat_limit(void);

/* Servo steps in which every joint can brake from its velocity limit to rest. */
float model_steps_to_rest(void);

/* Servo steps in which every joint can move over its whole range. */
float model_steps_of_relief(void);

/* Whether the arm may follow setpoints in this state: ARMED, RUNNING or STARVED. */
bool model_is_active(uint8_t state);

/* After a servo step; `evenly`: exactly one step was executed. */
const char *model_check_step(struct model *model, const struct joint_motion *before, bool evenly);

/* After a servo step that started in the state `from`: the new state is the one that the table of transitions names for
 * the new fault, or, in the first step of a tick, for its setpoint (`due`) or the lack of one. */
const char *model_check_transition(uint8_t from, uint16_t faults_before, bool first, bool due);

/* After the first step of a tick: the invariants over many ticks, which the model counts itself. */
const char *model_check_history(struct model *model, bool due);

/* After the answer to a command that was sent in the state `from`. */
const char *model_check_command(enum safety_event event, uint8_t from);

#endif
