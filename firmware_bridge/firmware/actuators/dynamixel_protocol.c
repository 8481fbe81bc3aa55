#include "dynamixel_protocol.h"

#include <string.h>

enum {
    AT_ID = 4,
    AT_LENGTH = 5,
    AT_INSTRUCTION = 7,
    AT_ERROR = 8,
    CRC_SIZE = 2,
    SHORTEST = DYNAMIXEL_HEAD + CRC_SIZE,
    FAST_FRAME = 2 + CRC_SIZE, /* error, id and CRC around the data of a servo */
};

static const uint8_t START[] = {0xFF, 0xFF, 0xFD, 0x00};

uint16_t dynamixel_crc(uint16_t crc, const uint8_t *data, size_t size)
{
    static const uint16_t of_nibble[16] = {0x0000, 0x8005, 0x800F, 0x000A, 0x801B, 0x001E, 0x0014, 0x8011,
                                           0x8033, 0x0036, 0x003C, 0x8039, 0x0028, 0x802D, 0x8027, 0x0022};
    uint32_t remainder = crc;
    for (size_t i = 0; i < size; i++) {
        remainder = (remainder << 4) ^ of_nibble[((remainder >> 12) ^ (data[i] >> 4)) & 0xFu];
        remainder = (remainder << 4) ^ of_nibble[((remainder >> 12) ^ data[i]) & 0xFu];
    }
    return (uint16_t)remainder;
}

static void put_word(uint8_t *out, size_t word)
{
    out[0] = (uint8_t)word;
    out[1] = (uint8_t)(word >> 8);
}

static size_t word_at(const uint8_t *in)
{
    return (size_t)in[0] | ((size_t)in[1] << 8);
}

/* Whether the three bytes before `end` are those that another FD follows. */
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

size_t dynamixel_sync_read(uint8_t instruction, uint16_t address, uint16_t size, const uint8_t *ids, uint8_t count,
                           uint8_t packet[DYNAMIXEL_LONGEST])
{
    uint8_t parameters[4 + DYNAMIXEL_MOST_SERVOS];
    const uint8_t listed = count < DYNAMIXEL_MOST_SERVOS ? count : DYNAMIXEL_MOST_SERVOS;
    put_word(parameters, address);
    put_word(parameters + 2, size);
    memcpy(parameters + 4, ids, listed);
    return dynamixel_packet(DYNAMIXEL_BROADCAST, instruction, parameters, 4u + listed, packet);
}

size_t dynamixel_sync_write(uint16_t address, uint16_t size, const uint8_t *ids, const int32_t *values, uint8_t count,
                            uint8_t packet[DYNAMIXEL_LONGEST])
{
    uint8_t parameters[DYNAMIXEL_MOST_PARAMETERS];
    size_t end = 4;
    put_word(parameters, address);
    put_word(parameters + 2, size);
    for (uint8_t i = 0; i < count && i < DYNAMIXEL_MOST_SERVOS; i++) {
        parameters[end++] = ids[i];
        for (unsigned byte = 0; byte < size && byte < 4; byte++) {
            parameters[end++] = (uint8_t)((uint32_t)values[i] >> (8u * byte));
        }
    }
    return dynamixel_packet(DYNAMIXEL_BROADCAST, DYNAMIXEL_SYNC_WRITE, parameters, end, packet);
}

void dynamixel_reset(struct dynamixel_receiver *receiver)
{
    receiver->received = 0;
    receiver->needed = AT_INSTRUCTION;
    receiver->valid = 0;
    receiver->next = 0;
}

bool dynamixel_receive(struct dynamixel_receiver *receiver, uint8_t byte)
{
    if (receiver->received < sizeof receiver->packet) {
        receiver->packet[receiver->received++] = byte;
    }
    return receiver->received >= receiver->needed;
}

/* Forgets the first `size` bytes, and those after them that cannot begin a packet. */
static void drop(struct dynamixel_receiver *receiver, size_t size)
{
    size_t begin = size;
    while (begin < receiver->received && receiver->packet[begin] != START[0]) {
        begin++;
    }
    receiver->received -= begin;
    memmove(receiver->packet, receiver->packet + begin, receiver->received);
    receiver->valid = 0;
    receiver->needed = AT_INSTRUCTION;
}

static size_t size_of(const uint8_t *packet)
{
    return AT_INSTRUCTION + word_at(packet + AT_LENGTH);
}

enum verdict { INCOMPLETE, DAMAGED, COMPLETE };

static enum verdict judge(struct dynamixel_receiver *receiver)
{
    const uint8_t *packet = receiver->packet;
    if (receiver->received < AT_INSTRUCTION) {
        return INCOMPLETE;
    }
    const size_t size = size_of(packet);
    if (memcmp(packet, START, sizeof START) != 0 || size > sizeof receiver->packet || size < SHORTEST) {
        return DAMAGED;
    }
    receiver->needed = size;
    if (receiver->received < receiver->needed) {
        return INCOMPLETE;
    }
    const size_t end = size - CRC_SIZE;
    return dynamixel_crc(0, packet, end) == word_at(packet + end) ? COMPLETE : DAMAGED;
}

/* Removes from the data of a status packet the bytes that were stuffed in; returns where the data end. */
static size_t unstuff(uint8_t *packet, size_t end)
{
    size_t kept = AT_INSTRUCTION;
    size_t alike = 0; /* how many bytes of FF FF FD the last ones are */
    for (size_t at = AT_INSTRUCTION; at < end; at++) {
        const uint8_t byte = packet[at];
        if (alike == 3 && byte == 0xFD) {
            alike = 0;
            continue;
        }
        packet[kept++] = byte;
        if (byte == 0xFF) {
            alike = alike == 1 || alike == 2 ? 2 : 1;
        } else {
            alike = alike == 2 && byte == 0xFD ? 3 : 0;
        }
    }
    return kept;
}

/* Searches for a status packet; after true, it is at the begin of `packet`. */
static bool find_status(struct dynamixel_receiver *receiver)
{
    while (receiver->received > 0) {
        const enum verdict verdict = judge(receiver);
        if (verdict == INCOMPLETE) {
            return false;
        }
        const size_t size = verdict == COMPLETE ? size_of(receiver->packet) : 1;
        if (size > SHORTEST && receiver->packet[AT_INSTRUCTION] == DYNAMIXEL_STATUS) {
            receiver->valid = size;
            receiver->next = AT_ERROR;
            return true;
        }
        drop(receiver, size);
    }
    return false;
}

static void take_single(struct dynamixel_receiver *receiver, struct dynamixel_status *status)
{
    const size_t end = unstuff(receiver->packet, receiver->valid - CRC_SIZE);
    status->id = receiver->packet[AT_ID];
    status->error = receiver->packet[AT_ERROR];
    status->data = receiver->packet + AT_ERROR + 1;
    status->size = end - (AT_ERROR + 1);
    receiver->next = receiver->valid;
}

static void take_part(struct dynamixel_receiver *receiver, size_t size, struct dynamixel_status *status)
{
    const uint8_t *part = receiver->packet + receiver->next;
    *status = (struct dynamixel_status){.error = part[0], .id = part[1], .data = part + 2, .size = size};
    receiver->next += size + FAST_FRAME;
}

bool dynamixel_next(struct dynamixel_receiver *receiver, size_t fast_size, struct dynamixel_status *status)
{
    for (;;) {
        if (receiver->valid == 0 && !find_status(receiver)) {
            return false;
        }
        const bool is_fast = receiver->packet[AT_ID] == DYNAMIXEL_BROADCAST;
        const size_t needed = is_fast ? fast_size + FAST_FRAME : 1;
        if (receiver->next + needed <= receiver->valid) {
            if (is_fast) {
                take_part(receiver, fast_size, status);
            } else {
                take_single(receiver, status);
            }
            return true;
        }
        drop(receiver, receiver->valid);
    }
}
