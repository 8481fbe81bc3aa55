#include "feetech_protocol.h"

#include <string.h>

enum {
    AT_ID = 2,
    AT_LENGTH = 3,
    AT_INSTRUCTION = 4,
    CHECKSUM_SIZE = 1,
    AROUND_DATA = 2, /* what the length counts beside the data: errors and checksum */
    SIGN_BIT = 0x8000,
    LARGEST = 0x7FFF,
};

static const uint8_t START[] = {0xFF, 0xFF};

static uint8_t checksum(const uint8_t *packet, size_t end)
{
    unsigned sum = 0;
    for (size_t at = AT_ID; at < end; at++) {
        sum += packet[at];
    }
    return (uint8_t)~sum;
}

size_t feetech_packet(uint8_t id, uint8_t instruction, const uint8_t *parameters, size_t size,
                      uint8_t packet[FEETECH_LONGEST])
{
    size_t end = FEETECH_HEAD;
    memcpy(packet, START, sizeof START);
    packet[AT_ID] = id;
    packet[AT_LENGTH] = (uint8_t)(size + AROUND_DATA);
    packet[AT_INSTRUCTION] = instruction;
    for (size_t i = 0; i < size; i++) {
        packet[end++] = parameters[i];
    }
    packet[end] = checksum(packet, end);
    return end + CHECKSUM_SIZE;
}

size_t feetech_sync_read(uint8_t address, uint8_t size, const uint8_t *ids, uint8_t count,
                         uint8_t packet[FEETECH_LONGEST])
{
    uint8_t parameters[2 + FEETECH_MOST_SERVOS] = {address, size};
    const uint8_t listed = count < FEETECH_MOST_SERVOS ? count : FEETECH_MOST_SERVOS;
    memcpy(parameters + 2, ids, listed);
    return feetech_packet(FEETECH_BROADCAST, FEETECH_SYNC_READ, parameters, 2u + listed, packet);
}

size_t feetech_sync_write(uint8_t address, uint8_t size, const uint8_t *ids, const uint16_t *values, uint8_t count,
                          uint8_t packet[FEETECH_LONGEST])
{
    uint8_t parameters[FEETECH_MOST_PARAMETERS] = {address, size};
    size_t end = 2;
    for (uint8_t i = 0; i < count && i < FEETECH_MOST_SERVOS; i++) {
        parameters[end++] = ids[i];
        for (unsigned byte = 0; byte < size && byte < 2; byte++) {
            parameters[end++] = (uint8_t)(values[i] >> (8u * byte));
        }
    }
    return feetech_packet(FEETECH_BROADCAST, FEETECH_SYNC_WRITE, parameters, end, packet);
}

int32_t feetech_number(uint16_t word)
{
    const int32_t magnitude = word & LARGEST;
    return (word & SIGN_BIT) != 0 ? -magnitude : magnitude;
}

uint16_t feetech_word(int32_t number)
{
    const int32_t magnitude = number < 0 ? -number : number;
    const int32_t kept = magnitude < LARGEST ? magnitude : LARGEST;
    return (uint16_t)(number < 0 ? kept | SIGN_BIT : kept);
}

void feetech_reset(struct feetech_receiver *receiver)
{
    receiver->received = 0;
    receiver->needed = FEETECH_HEAD;
    receiver->valid = 0;
}

bool feetech_receive(struct feetech_receiver *receiver, uint8_t byte)
{
    if (receiver->received < sizeof receiver->packet) {
        receiver->packet[receiver->received++] = byte;
    }
    return receiver->received >= receiver->needed;
}

/* Forgets the first `size` bytes, and those after them that cannot begin a packet. */
static void drop(struct feetech_receiver *receiver, size_t size)
{
    size_t begin = size;
    while (begin < receiver->received && receiver->packet[begin] != START[0]) {
        begin++;
    }
    receiver->received -= begin;
    memmove(receiver->packet, receiver->packet + begin, receiver->received);
    receiver->valid = 0;
    receiver->needed = FEETECH_HEAD;
}

static size_t size_of(const uint8_t *packet)
{
    return AT_LENGTH + 1 + (size_t)packet[AT_LENGTH];
}

enum verdict { INCOMPLETE, DAMAGED, INSTRUCTION, STATUS };

static bool is_instruction_to_all(const uint8_t *packet)
{
    return packet[AT_ID] == FEETECH_BROADCAST &&
           (packet[AT_INSTRUCTION] == FEETECH_SYNC_READ || packet[AT_INSTRUCTION] == FEETECH_SYNC_WRITE);
}

static bool is_status(const uint8_t *packet, size_t size, size_t other_size)
{
    const size_t length = packet[AT_LENGTH];
    return packet[AT_ID] < FEETECH_BROADCAST && (length == size + AROUND_DATA || length == other_size + AROUND_DATA);
}

static enum verdict judge(struct feetech_receiver *receiver, size_t size, size_t other_size)
{
    const uint8_t *packet = receiver->packet;
    if (receiver->received < FEETECH_HEAD) {
        return INCOMPLETE;
    }
    const bool from_board = is_instruction_to_all(packet);
    if (memcmp(packet, START, sizeof START) != 0 || !(from_board || is_status(packet, size, other_size))) {
        return DAMAGED;
    }
    const size_t whole = size_of(packet);
    if (whole > sizeof receiver->packet || whole < FEETECH_HEAD + CHECKSUM_SIZE) {
        return DAMAGED;
    }
    receiver->needed = whole;
    if (receiver->received < receiver->needed) {
        return INCOMPLETE;
    }
    if (checksum(packet, whole - CHECKSUM_SIZE) != packet[whole - CHECKSUM_SIZE]) {
        return DAMAGED;
    }
    return from_board ? INSTRUCTION : STATUS;
}

bool feetech_next(struct feetech_receiver *receiver, size_t size, size_t other_size, struct feetech_status *status)
{
    const uint8_t *packet = receiver->packet;
    if (receiver->valid != 0) {
        drop(receiver, receiver->valid);
    }
    while (receiver->received > 0) {
        const enum verdict verdict = judge(receiver, size, other_size);
        if (verdict == INCOMPLETE) {
            return false;
        }
        if (verdict == STATUS) {
            receiver->valid = size_of(packet);
            *status = (struct feetech_status){.id = packet[AT_ID],
                                              .errors = packet[AT_INSTRUCTION],
                                              .data = packet + FEETECH_HEAD,
                                              .size = packet[AT_LENGTH] - (size_t)AROUND_DATA};
            return true;
        }
        drop(receiver, verdict == INSTRUCTION ? size_of(packet) : 1);
    }
    return false;
}
