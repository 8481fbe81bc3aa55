#include "dynamixel_protocol.h"

#include <string.h>

enum { AT_ID = 4, AT_LENGTH = 5, AT_INSTRUCTION = 7, CRC_SIZE = 2, SHORTEST_LENGTH = 3 };

static const uint8_t START[] = {0xFF, 0xFF, 0xFD, 0x00};

uint16_t dynamixel_crc(uint16_t crc, const uint8_t *data, size_t size)
{
    uint32_t remainder = crc;
    for (size_t i = 0; i < size; i++) {
        remainder ^= (uint32_t)data[i] << 8;
        for (int bit = 0; bit < 8; bit++) {
            remainder <<= 1;
            remainder ^= (remainder & 0x10000u) != 0 ? 0x18005u : 0u;
        }
    }
    return (uint16_t)remainder;
}

static void put_word(uint8_t *out, size_t word)
{
    out[0] = (uint8_t)word;
    out[1] = (uint8_t)(word >> 8);
}

static bool ends_like_a_start(const uint8_t *packet, size_t end)
{
    return end >= AT_INSTRUCTION + 3 && packet[end - 3] == 0xFF && packet[end - 2] == 0xFF && packet[end - 1] == 0xFD;
}

size_t dynamixel_packet(uint8_t id, uint8_t instruction, const uint8_t *parameters, size_t size,
                        uint8_t packet[DYNAMIXEL_LONGEST])
{
    memcpy(packet, START, sizeof START);
    packet[AT_ID] = id;
    packet[AT_INSTRUCTION] = instruction;
    size_t end = AT_INSTRUCTION + 1;
    for (size_t i = 0; i < size; i++) {
        packet[end++] = parameters[i];
        if (ends_like_a_start(packet, end)) {
            packet[end++] = 0xFD;
        }
    }
    put_word(packet + AT_LENGTH, end + CRC_SIZE - AT_INSTRUCTION);
    put_word(packet + end, dynamixel_crc(0, packet, end));
    return end + CRC_SIZE;
}

size_t dynamixel_sync_write(uint16_t address, const uint32_t *values, uint8_t count,
                            uint8_t packet[DYNAMIXEL_LONGEST])
{
    uint8_t parameters[DYNAMIXEL_MOST_PARAMETERS];
    size_t size = 4;
    put_word(parameters, address);
    put_word(parameters + 2, 4);
    for (uint8_t i = 0; i < count && i < DYNAMIXEL_MOST_SERVOS; i++) {
        parameters[size++] = (uint8_t)(i + 1u);
        put_word(parameters + size, values[i] & 0xFFFFu);
        put_word(parameters + size + 2, values[i] >> 16);
        size += 4;
    }
    return dynamixel_packet(DYNAMIXEL_BROADCAST, DYNAMIXEL_SYNC_WRITE, parameters, size, packet);
}

/* Copies what follows the instruction, without the bytes that were stuffed in. */
static void take_status(const uint8_t *packet, size_t end, struct dynamixel_status *status)
{
    status->id = packet[AT_ID];
    status->error = packet[AT_INSTRUCTION + 1];
    status->size = 0;
    for (size_t at = AT_INSTRUCTION + 2; at < end && status->size < sizeof status->parameters; at++) {
        if (packet[at] != 0xFD || !ends_like_a_start(packet, at)) {
            status->parameters[status->size++] = packet[at];
        }
    }
}

static size_t length_of(const uint8_t *packet)
{
    return (size_t)packet[AT_LENGTH] | ((size_t)packet[AT_LENGTH + 1] << 8);
}

/* Restarts the parser; a byte that cannot belong to this packet may be the first of the next. */
static void begin_with(struct dynamixel_receiver *receiver, uint8_t byte)
{
    receiver->packet[0] = byte;
    receiver->received = byte == START[0] ? 1 : 0;
}

bool dynamixel_receive(struct dynamixel_receiver *receiver, uint8_t byte, struct dynamixel_status *status)
{
    uint8_t *packet = receiver->packet;
    const size_t at = receiver->received;
    if (at < sizeof START && byte != START[at]) {
        const bool another_ff = at == 2 && byte == START[0];
        if (!another_ff) {
            begin_with(receiver, byte);
        }
        return false;
    }
    packet[receiver->received++] = byte;
    if (receiver->received < AT_INSTRUCTION) {
        return false;
    }
    const size_t size = AT_INSTRUCTION + length_of(packet);
    if (size > DYNAMIXEL_LONGEST || size < AT_INSTRUCTION + SHORTEST_LENGTH) {
        receiver->damaged++;
        receiver->received = 0;
        return false;
    }
    if (receiver->received < size) {
        return false;
    }
    receiver->received = 0;
    const size_t end = size - CRC_SIZE;
    const uint16_t crc = (uint16_t)(packet[end] | packet[end + 1] << 8);
    if (dynamixel_crc(0, packet, end) != crc) {
        receiver->damaged++;
        return false;
    }
    if (packet[AT_INSTRUCTION] != DYNAMIXEL_STATUS || end < AT_INSTRUCTION + 2) {
        return false;
    }
    take_status(packet, end, status);
    return true;
}
