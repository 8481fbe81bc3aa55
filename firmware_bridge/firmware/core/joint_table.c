#include "joint_table.h"

#include <string.h>

#include "crc32.h"
#include "serial_link.h"

static uint32_t hash_text(uint32_t crc, const char *text)
{
    return crc32_update(crc, (const uint8_t *)text, strlen(text) + 1);
}

static uint32_t hash_numbers(uint32_t crc, const float *numbers, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint8_t bytes[4];
        link_put(bytes, link_bits_of_float(numbers[i]), sizeof bytes);
        crc = crc32_update(crc, bytes, sizeof bytes);
    }
    return crc;
}

static uint32_t hash_joint(uint32_t crc, const struct joint *joint)
{
    const float numbers[] = {joint->minimum,         joint->maximum,    joint->velocity,
                             joint->acceleration,    joint->home,       joint->resolution,
                             joint->following_error, joint->current,    joint->temperature};
    crc = hash_numbers(crc, numbers, sizeof numbers / sizeof numbers[0]);
    return hash_text(hash_text(crc, joint->name), joint->unit);
}

static uint32_t hash_servo(uint32_t crc, const struct servo *servo)
{
    const uint8_t place[] = {servo->bus, servo->id, servo->joint, servo->is_shadow};
    const float numbers[] = {servo->zero, servo->per_unit, servo->current_unit};
    return hash_numbers(crc32_update(crc, place, sizeof place), numbers, sizeof numbers / sizeof numbers[0]);
}

static uint32_t hash_bus(uint32_t crc, const struct servo_bus *bus)
{
    uint8_t bytes[6];
    link_put(bytes, bus->baud, 4);
    bytes[4] = bus->buses;
    bytes[5] = bus->measure_steps;
    const float numbers[] = {bus->lowest_volts, bus->highest_volts};
    return hash_numbers(crc32_update(crc, bytes, sizeof bytes), numbers, sizeof numbers / sizeof numbers[0]);
}

uint32_t joint_table_hash(const struct joint_table *table)
{
    uint8_t head[5] = {table->count};
    link_put(head + 1, table->control_hz, 2);
    link_put(head + 3, table->servo_hz, 2);
    uint32_t crc = crc32_update(0, head, sizeof head);
    for (uint8_t i = 0; i < table->count; i++) {
        crc = hash_joint(crc, &table->joints[i]);
    }
    crc = crc32_update(crc, &table->servo_count, 1);
    for (uint8_t i = 0; i < table->servo_count; i++) {
        crc = hash_servo(crc, &table->servos[i]);
    }
    return hash_bus(crc, &table->bus);
}
