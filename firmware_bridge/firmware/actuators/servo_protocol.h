/* What servo_buses.c needs to know of a protocol of servos. dynamixel.c or feetech.c is linked into an image. */
#ifndef SERVO_PROTOCOL_H
#define SERVO_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SERVO_MOST_ON_BUS = 32,
    SERVO_MOST_PACKET = 256, /* bytes of one packet to a bus */
};

/* Registers that are read together. */
enum servo_block {
    SERVO_MOTION,    /* position and current */
    SERVO_CONDITION, /* torque, errors */
    SERVO_HEALTH,    /* voltage, temperature */
    SERVO_IDENTITY,  /* whether it can answer together with others */
    SERVO_BLOCKS,
};

/* What one answer of a servo tells; only what the bits of `told` name is valid. */
enum servo_told {
    SERVO_TOLD_MOTION = 1 << 0,   /* position, current */
    SERVO_TOLD_TORQUE = 1 << 1,   /* torque */
    SERVO_TOLD_ERRORS = 1 << 2,   /* errors */
    SERVO_TOLD_HEALTH = 1 << 3,   /* tenth_volts, temperature */
    SERVO_TOLD_IDENTITY = 1 << 4, /* answers_together */
};

struct servo_reading {
    uint8_t id;
    uint8_t told;
    bool alert; /* it has an error, told or not */
    bool torque;
    bool answers_together;
    uint8_t errors; /* bits VOLTAGE to ENCODER of LINK_JOINT_FLAG */
    uint8_t tenth_volts;
    uint8_t temperature;
    int32_t position; /* counts */
    int32_t current;
};

/* Whether the protocol reads this block. What is in the others comes with one that it reads, or not at all. */
bool servo_protocol_reads(enum servo_block block);

/* Make the packets to the servos `ids`, and return their size; `goals` are counts. `together`: every one of them can
 * answer together with the others. */
size_t servo_protocol_goals(const uint8_t *ids, const int32_t *goals, uint8_t count, uint8_t *packet);
size_t servo_protocol_torque(const uint8_t *ids, uint8_t count, bool on, uint8_t *packet);
size_t servo_protocol_request(enum servo_block block, bool together, const uint8_t *ids, uint8_t count,
                              uint8_t *packet);

/* Forgets the incomplete packet of a bus. */
void servo_protocol_reset(uint8_t bus);

/* Takes one byte of a bus; returns whether it may complete a packet. Then the readings are taken, until there is
 * none. */
bool servo_protocol_receive(uint8_t bus, uint8_t byte);
bool servo_protocol_next(uint8_t bus, struct servo_reading *reading);

#endif
