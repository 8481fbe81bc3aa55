#include "joint_table.h"

#include <string.h>

#include "crc32.h"
#include "serial_link.h"

static uint32_t hash_text(uint32_t crc, const char *text)
{
    return crc32_update(crc, (const uint8_t *)text, strlen(text) + 1);
}

static uint32_t hash_joint(uint32_t crc, const struct joint *joint)
{
    const float numbers[] = {joint->minimum,      joint->maximum, joint->velocity,
                             joint->acceleration, joint->home,    joint->resolution};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        uint8_t bytes[4];
        link_put(bytes, link_bits_of_float(numbers[i]), sizeof bytes);
        crc = crc32_update(crc, bytes, sizeof bytes);
    }
    return hash_text(hash_text(crc, joint->name), joint->unit);
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
    return crc;
}
