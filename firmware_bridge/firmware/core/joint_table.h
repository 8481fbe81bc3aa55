/* The joints of one robot and the servos that move them. Compiled in from robots/NAME.c, so that no host can widen a
 * limit. */
#ifndef JOINT_TABLE_H
#define JOINT_TABLE_H

#include <stdbool.h>
#include <stdint.h>

/* Positions in the joint's unit, velocity in unit/s, acceleration in unit/s^2; one count is `resolution`.
 *
 * The guards: the arm stops where a joint is farther than `following_error` from where it should be, draws more than
 * `current` amperes, or is hotter than `temperature` degrees Celsius; each for the time that guards.h states. 0 is no
 * guard. */
struct joint {
    const char *name;
    const char *unit;
    float minimum;
    float maximum;
    float velocity;
    float acceleration;
    float home;
    float resolution;
    float following_error;
    float current;
    float temperature;
};

/* One servo. Its position in counts is zero + per_unit * the position of its joint. A joint has one servo that is
 * commanded, and may have shadows: servos that execute its commands through their secondary ID, and are only read. */
struct servo {
    uint8_t bus;
    uint8_t id;
    uint8_t joint;
    bool is_shadow;
    float zero;
    float per_unit;
    float current_unit; /* ampere of one count of its current; 0 where it does not measure it */
};

/* The buses of the servos, all alike. `measure_steps`: every so many servo steps the positions are read. The arm stops
 * where the supply leaves `lowest_volts` to `highest_volts`; a highest of 0 is no guard. */
struct servo_bus {
    uint32_t baud;
    uint8_t buses;
    uint8_t measure_steps;
    float lowest_volts;
    float highest_volts;
};

struct joint_table {
    const char *robot;
    uint16_t control_hz; /* setpoints per second */
    uint16_t servo_hz;   /* steps of the motion between them per second, a multiple of `control_hz` */
    uint8_t count;
    const struct joint *joints;
    uint8_t servo_count; /* 0 where the robot has no bus of servos */
    const struct servo *servos;
    struct servo_bus bus;
};

extern const struct joint_table joint_table;

/* CRC-32 of the packed table; firmware/joint_table.py defines the packing and computes the same. */
uint32_t joint_table_hash(const struct joint_table *table);

#endif
