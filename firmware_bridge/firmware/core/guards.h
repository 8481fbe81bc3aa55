/* Watches what the servos measure, while the arm is active. Each guard stops the arm after its condition has held for a
 * time; the limits are compiled in with the joints (joint_table.h), the times are these.
 *
 * The position is compared with where the joint should have been when it was measured: the commanded position of the
 * last ticks, whichever is nearest. So a servo that lags by a tick or two is not blamed for its motion. */
#ifndef GUARDS_H
#define GUARDS_H

#include "measurement.h"
#include "motion_limiter.h"

enum {
    GUARD_FOLLOWING_MS = 200,
    GUARD_CONTACT_MS = 100,
    GUARD_TEMPERATURE_MS = 1000,
    GUARD_VOLTAGE_MS = 200,
    GUARD_SILENT_MS = 200,  /* since the last measurement of any joint */
    GUARD_ERROR_MS = 100,   /* an error that a servo reports, or torque that it lost by itself */
    GUARD_TORQUE_MS = 1000,  /* after ARM, servos have so long to show their torque */
    GUARD_PAST_TICKS = 4,
};

enum guard { GUARD_FOLLOWING, GUARD_CONTACT, GUARD_TEMPERATURE, GUARD_VOLTAGE, GUARD_ERROR, GUARDS };

struct guards {
    uint16_t ticks[LINK_MAX_JOINTS][GUARDS]; /* in a row in which the condition held */
    uint16_t armed_ticks;                    /* since ARM, as far as GUARD_TORQUE_MS */
    float past[GUARD_PAST_TICKS][LINK_MAX_JOINTS]; /* commanded positions of the last ticks, the newest first */
};

/* A guard that stops the arm: the bits of LINK_FAULT and the first joint of each kind, or LINK_NO_JOINT. */
struct guard_verdict {
    uint16_t faults;
    uint8_t joint;
};

/* Begins anew when the arm becomes active, at rest at these positions. */
void guards_restart(struct guards *guards, const struct joint_table *table, const struct joint_motion *motion);

/* Advances by one tick. Only measurements with LINK_JOINT_FLAG_MEASURED count. */
struct guard_verdict guards_tick(struct guards *guards, const struct joint_table *table,
                                 const struct joint_measurement *measured, const struct joint_motion *motion);

/* Whether every joint was measured within GUARD_SILENT_MS. `*joint`: the first that was not. */
bool guards_is_fresh(const struct joint_table *table, const struct joint_measurement *measured, uint8_t *joint);

#endif
