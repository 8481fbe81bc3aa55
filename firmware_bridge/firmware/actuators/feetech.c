/* Feetech STS servos: their registers. */
#include "feetech_protocol.h"
#include "serial_link.h"
#include "servo_protocol.h"

_Static_assert((int)SERVO_MOST_ON_BUS <= (int)FEETECH_MOST_SERVOS, "a packet holds all servos of a bus");
_Static_assert((int)SERVO_MOST_PACKET >= (int)FEETECH_LONGEST, "room for a packet");

enum { TORQUE_ENABLE = 40, GOAL_POSITION = 42, GOAL_SIZE = 2 };

/* The blocks. Packets do not say what they answer; each block has another size, which does. */
enum {
    CONDITION_AT = TORQUE_ENABLE,
    CONDITION_SIZE = 1,
    MOTION_AT = 56, /* with the health: position (2), speed (2), load (2), voltage, temperature, .. (5), current (2) */
    MOTION_SIZE = 15,
    TORQUE_ON = 1, /* 2 is damping, without a goal */
};

/* Bits of the errors that come with every answer, register 65. */
enum {
    ERROR_VOLTAGE = 1 << 0,
    ERROR_ENCODER = 1 << 1,
    ERROR_HEAT = 1 << 2,
    ERROR_CURRENT = 1 << 3,
    ERROR_OVERLOAD = 1 << 5,
};

static struct feetech_receiver receivers[BOARD_BUSES];

/* Only the goal: speed and acceleration stay as the servo has them, and the limits of the motion are those of the joint
 * table. */
size_t servo_protocol_goals(const uint8_t *ids, const int32_t *goals, uint8_t count, uint8_t *packet)
{
    uint16_t words[SERVO_MOST_ON_BUS];
    for (uint8_t i = 0; i < count; i++) {
        words[i] = feetech_word(goals[i]);
    }
    return feetech_sync_write(GOAL_POSITION, GOAL_SIZE, ids, words, count, packet);
}

size_t servo_protocol_torque(const uint8_t *ids, uint8_t count, bool on, uint8_t *packet)
{
    uint16_t values[SERVO_MOST_ON_BUS];
    for (uint8_t i = 0; i < count; i++) {
        values[i] = on ? TORQUE_ON : 0;
    }
    return feetech_sync_write(TORQUE_ENABLE, 1, ids, values, count, packet);
}

/* Health and errors come with the motion, and no servo answers together with others. */
bool servo_protocol_reads(enum servo_block block)
{
    return block == SERVO_MOTION || block == SERVO_CONDITION;
}

size_t servo_protocol_request(enum servo_block block, bool together, const uint8_t *ids, uint8_t count,
                              uint8_t *packet)
{
    (void)together;
    if (block == SERVO_MOTION) {
        return feetech_sync_read(MOTION_AT, MOTION_SIZE, ids, count, packet);
    }
    return feetech_sync_read(CONDITION_AT, CONDITION_SIZE, ids, count, packet);
}

void servo_protocol_reset(uint8_t bus)
{
    feetech_reset(&receivers[bus]);
}

bool servo_protocol_receive(uint8_t bus, uint8_t byte)
{
    return feetech_receive(&receivers[bus], byte);
}

static uint8_t errors_of(uint8_t bits)
{
    unsigned errors = 0;
    errors |= (bits & ERROR_VOLTAGE) != 0 ? LINK_JOINT_FLAG_VOLTAGE : 0u;
    errors |= (bits & ERROR_HEAT) != 0 ? LINK_JOINT_FLAG_OVERHEATED : 0u;
    errors |= (bits & (ERROR_CURRENT | ERROR_OVERLOAD)) != 0 ? LINK_JOINT_FLAG_OVERLOADED : 0u;
    errors |= (bits & ERROR_ENCODER) != 0 ? LINK_JOINT_FLAG_ENCODER : 0u;
    return (uint8_t)errors;
}

static int32_t number_at(const uint8_t *data)
{
    return feetech_number((uint16_t)(data[0] | data[1] << 8));
}

bool servo_protocol_next(uint8_t bus, struct servo_reading *reading)
{
    struct feetech_status status;
    if (!feetech_next(&receivers[bus], MOTION_SIZE, CONDITION_SIZE, &status)) {
        return false;
    }
    *reading = (struct servo_reading){.id = status.id, .told = SERVO_TOLD_ERRORS, .alert = status.errors != 0};
    reading->errors = errors_of(status.errors);
    if (status.size == CONDITION_SIZE) {
        reading->told |= SERVO_TOLD_TORQUE;
        reading->torque = status.data[0] == TORQUE_ON;
    } else {
        reading->told |= SERVO_TOLD_MOTION | SERVO_TOLD_HEALTH;
        reading->position = number_at(status.data);
        reading->tenth_volts = status.data[6];
        reading->temperature = status.data[7];
        reading->current = number_at(status.data + 13);
    }
    return true;
}
