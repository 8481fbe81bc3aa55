/* The joints of one robot. Compiled in from robots/NAME.c, so that no host can widen a limit. */
#ifndef JOINT_TABLE_H
#define JOINT_TABLE_H

#include <stdint.h>

/* Positions in the joint's unit, velocity in unit/s, acceleration in unit/s^2; one count is `resolution`. */
struct joint {
    const char *name;
    const char *unit;
    float minimum;
    float maximum;
    float velocity;
    float acceleration;
    float home;
    float resolution;
};

struct joint_table {
    const char *robot;
    uint16_t control_hz; /* setpoints per second */
    uint16_t servo_hz;   /* steps of the motion between them per second, a multiple of `control_hz` */
    uint8_t count;
    const struct joint *joints;
};

extern const struct joint_table joint_table;

/* CRC-32 of the packed table; firmware/joint_table.py defines the packing and computes the same. */
uint32_t joint_table_hash(const struct joint_table *table);

#endif
