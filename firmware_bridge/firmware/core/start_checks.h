/* Whether the arm may start from where its joints were measured: before ARM, and before the first setpoint after it. */
#ifndef START_CHECKS_H
#define START_CHECKS_H

#include "chunk.h"
#include "measurement.h"
#include "motion_limiter.h"

/* Whether every joint was measured lately, and lies within its limits or at most a little outside: OK, NOT_MEASURED or
 * OUTSIDE_LIMITS. `*joint`: the first one of which this does not hold, or LINK_NO_JOINT. */
enum link_command_result start_check_joints(const struct joint_table *table,
                                            const struct joint_measurement *measured, uint8_t *joint);

/* Whether each joint, at rest where it was measured, can be at the first setpoint of `chunk` that is still ahead by the
 * tick at which that is due. Returns the first joint that cannot, or LINK_NO_JOINT. */
uint8_t start_check_reach(const struct joint_table *table, const struct joint_measurement *measured,
                          const struct chunk *chunk, uint32_t now);

#endif
