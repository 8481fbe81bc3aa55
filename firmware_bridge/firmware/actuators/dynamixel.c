/* Dynamixel servos of the X series, protocol 2.0: their registers. */
#include "dynamixel_protocol.h"
#include "serial_link.h"
#include "servo_protocol.h"

_Static_assert((int)SERVO_MOST_ON_BUS <= (int)DYNAMIXEL_MOST_SERVOS, "a packet holds all servos of a bus");
_Static_assert((int)SERVO_MOST_PACKET >= (int)DYNAMIXEL_LONGEST, "room for a packet");

enum {
    TORQUE_ENABLE = 64,
    GOAL_POSITION = 116,
    GOAL_SIZE = 4,
    ALERT = 0x80, /* in the error of a status packet */
};

/* The blocks. Status packets do not say what they answer; each block has another size, which does. */
enum {
    IDENTITY_AT = 0, /* model (2), information (4), firmware (1), id (1) */
    IDENTITY_SIZE = 8,
    CONDITION_AT = 64, /* torque (1), LED, .., status level, registered, hardware error (1) */
    CONDITION_SIZE = 7,
    MOTION_AT = 126, /* current (2), velocity (4), position (4) */
    MOTION_SIZE = DYNAMIXEL_MOST_DATA,
    HEALTH_AT = 144, /* voltage (2), temperature (1) */
    HEALTH_SIZE = 3,
};

/* Bits of the hardware error, register 70. */
enum {
    HARDWARE_VOLTAGE = 1 << 0,
    HARDWARE_HEAT = 1 << 2,
    HARDWARE_ENCODER = 1 << 3,
    HARDWARE_SHOCK = 1 << 4, /* or too little power for the motor */
    HARDWARE_OVERLOAD = 1 << 5,
};

static struct dynamixel_receiver receivers[BOARD_BUSES];

size_t servo_protocol_goals(const uint8_t *ids, const int32_t *goals, uint8_t count, uint8_t *packet)
{
    return dynamixel_sync_write(GOAL_POSITION, GOAL_SIZE, ids, goals, count, packet);
}

size_t servo_protocol_torque(const uint8_t *ids, uint8_t count, bool on, uint8_t *packet)
{
    int32_t values[SERVO_MOST_ON_BUS];
    for (uint8_t i = 0; i < count; i++) {
        values[i] = on ? 1 : 0;
    }
    return dynamixel_sync_write(TORQUE_ENABLE, 1, ids, values, count, packet);
}

bool servo_protocol_reads(enum servo_block block)
{
    return block < SERVO_BLOCKS;
}

/* Of the blocks only the one that is read most often is worth a fast sync read. */
size_t servo_protocol_request(enum servo_block block, bool together, const uint8_t *ids, uint8_t count,
                              uint8_t *packet)
{
    static const struct {
        uint16_t address;
        uint16_t size;
    } blocks[SERVO_BLOCKS] = {
        [SERVO_MOTION] = {MOTION_AT, MOTION_SIZE},
        [SERVO_CONDITION] = {CONDITION_AT, CONDITION_SIZE},
        [SERVO_HEALTH] = {HEALTH_AT, HEALTH_SIZE},
        [SERVO_IDENTITY] = {IDENTITY_AT, IDENTITY_SIZE},
    };
    const uint8_t instruction = together && block == SERVO_MOTION ? DYNAMIXEL_FAST_SYNC_READ : DYNAMIXEL_SYNC_READ;
    return dynamixel_sync_read(instruction, blocks[block].address, blocks[block].size, ids, count, packet);
}

void servo_protocol_reset(uint8_t bus)
{
    dynamixel_reset(&receivers[bus]);
}

bool servo_protocol_receive(uint8_t bus, uint8_t byte)
{
    return dynamixel_receive(&receivers[bus], byte);
}

static uint32_t number_at(const uint8_t *data, unsigned size)
{
    uint32_t number = 0;
    for (unsigned i = size; i > 0; i--) {
        number = (number << 8) | data[i - 1];
    }
    return number;
}

/* Whether the model has the fast sync read since this firmware: numbers of the vendor's e-manual. Of the X430 and X540
 * (1000 to 1180) the two with two axes never got it; of the X330 (1190 to 1240) all did. */
static bool has_fast_sync_read(uint32_t model, uint8_t firmware)
{
    enum { TWO_XL430 = 1090, TWO_XC430 = 1160 };
    if (model >= 1000 && model <= 1180 && model != TWO_XL430 && model != TWO_XC430) {
        return firmware >= 45;
    }
    return model >= 1190 && model <= 1240 && firmware >= 46;
}

static uint8_t errors_of(uint8_t hardware)
{
    unsigned errors = 0;
    errors |= (hardware & (HARDWARE_VOLTAGE | HARDWARE_SHOCK)) != 0 ? LINK_JOINT_FLAG_VOLTAGE : 0u;
    errors |= (hardware & HARDWARE_HEAT) != 0 ? LINK_JOINT_FLAG_OVERHEATED : 0u;
    errors |= (hardware & HARDWARE_OVERLOAD) != 0 ? LINK_JOINT_FLAG_OVERLOADED : 0u;
    errors |= (hardware & HARDWARE_ENCODER) != 0 ? LINK_JOINT_FLAG_ENCODER : 0u;
    return (uint8_t)errors;
}

static void read_motion(const uint8_t *data, struct servo_reading *reading)
{
    reading->told |= SERVO_TOLD_MOTION;
    reading->current = (int16_t)number_at(data, 2);
    reading->position = (int32_t)number_at(data + 6, 4);
}

static void read_condition(const uint8_t *data, struct servo_reading *reading)
{
    reading->told |= SERVO_TOLD_TORQUE | SERVO_TOLD_ERRORS;
    reading->torque = data[0] != 0;
    reading->errors = errors_of(data[CONDITION_SIZE - 1]);
}

static void read_health(const uint8_t *data, struct servo_reading *reading)
{
    const uint32_t tenth_volts = number_at(data, 2);
    reading->told |= SERVO_TOLD_HEALTH;
    reading->tenth_volts = (uint8_t)(tenth_volts < UINT8_MAX ? tenth_volts : UINT8_MAX);
    reading->temperature = data[2];
}

static void read_identity(const uint8_t *data, struct servo_reading *reading)
{
    reading->told |= SERVO_TOLD_IDENTITY;
    reading->answers_together = has_fast_sync_read(number_at(data, 2), data[6]);
}

/* Without the alert, the servo has no error; with it, the condition tells which. */
static void read_status(const struct dynamixel_status *status, struct servo_reading *reading)
{
    *reading = (struct servo_reading){.id = status->id, .alert = (status->error & ALERT) != 0};
    reading->told = reading->alert ? 0 : SERVO_TOLD_ERRORS;
    switch (status->size) {
    case MOTION_SIZE:
        read_motion(status->data, reading);
        break;
    case CONDITION_SIZE:
        read_condition(status->data, reading);
        break;
    case HEALTH_SIZE:
        read_health(status->data, reading);
        break;
    case IDENTITY_SIZE:
        read_identity(status->data, reading);
        break;
    default:
        break; /* the servo refuses the request; nothing is known */
    }
}

bool servo_protocol_next(uint8_t bus, struct servo_reading *reading)
{
    struct dynamixel_status status;
    if (!dynamixel_next(&receivers[bus], MOTION_SIZE, &status)) {
        return false;
    }
    read_status(&status, reading);
    return true;
}
