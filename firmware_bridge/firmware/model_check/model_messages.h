/* The messages of the host to the core: each function sends one frame and lets the main loop run once. */
#ifndef MODEL_MESSAGES_H
#define MODEL_MESSAGES_H

#include "model.h"

void model_send_hello(struct model *model, uint32_t schema_hash);
void model_send_ping(struct model *model);
void model_send_command(struct model *model, uint8_t command);

/* A chunk within the limits: each joint moves toward home and beyond it at four fifths of its velocity limit. */
void model_send_smooth_chunk(struct model *model);

/* A chunk within the limits that begins where one of the tick before, the head, ends; the arm may have none, or another. */
void model_send_rest(struct model *model);

/* A chunk that jumps between the ends of each joint's range; the first after ARM begins where the joints are. */
void model_send_jump_chunk(struct model *model);

/* A chunk whose first setpoint is at the end of each joint's range that is farther away. Returns whether it is accepted. */
bool model_send_far_chunk(struct model *model);

/* Lets the main loop run once and discards what the core sends. */
void model_poll(void);

#endif
