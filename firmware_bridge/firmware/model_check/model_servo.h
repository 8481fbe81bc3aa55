/* The servo of joint 0, as its encoder and sensors report it; joint 1 has none and is taken to be where it is commanded.
 *
 * The servo is where the joint is commanded, unless an event of this tick says otherwise. The model counts for how long
 * each condition has held, and knows from docs/safety.md how long it may hold while the arm is active. */
#ifndef MODEL_SERVO_H
#define MODEL_SERVO_H

#include "model.h"

/* What the servo measures from now on, after an event with this code. */
void model_servo_begin(struct model *model, char code);

/* Reports to the core; before each servo step. */
void model_servo_measure(struct model *model);

/* Counts for how many ticks in a row a condition has held in an active arm; after the first step of a tick. */
void model_servo_count(struct model *model, bool was_active);

/* Whether ARM may be accepted by what was measured last. */
bool model_servo_allows_arm(const struct model *model);

/* After the first step of a tick: the arm is not active where a condition has held for too long. */
const char *model_servo_check(const struct model *model);

#endif
