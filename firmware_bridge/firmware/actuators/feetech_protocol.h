/* Packets of Feetech's STS servos:
 *
 *   FF FF | id | length | instruction, or the errors of the servo that answers | parameters | checksum
 *
 * The length counts from the instruction to the checksum, which is the inverse of the sum of all bytes from the id on.
 * Little endian; negative values are a sign bit and a magnitude. Nothing is stuffed: FF FF may occur in data. */
#ifndef FEETECH_PROTOCOL_H
#define FEETECH_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FEETECH_MOST_SERVOS = 32,
    FEETECH_HEAD = 5, /* up to the instruction */
    FEETECH_MOST_PARAMETERS = 2 + 3 * FEETECH_MOST_SERVOS,
    FEETECH_LONGEST = FEETECH_HEAD + FEETECH_MOST_PARAMETERS + 1,
    FEETECH_BROADCAST = 0xFE,
};

enum feetech_instruction {
    FEETECH_PING = 0x01,
    FEETECH_READ = 0x02,
    FEETECH_WRITE = 0x03,
    FEETECH_SYNC_READ = 0x82,
    FEETECH_SYNC_WRITE = 0x83,
};

/* Makes a packet of at most FEETECH_MOST_PARAMETERS parameters; returns its size. */
size_t feetech_packet(uint8_t id, uint8_t instruction, const uint8_t *parameters, size_t size,
                      uint8_t packet[FEETECH_LONGEST]);

/* Makes the packet that asks `count` servos for `size` bytes at `address`. */
size_t feetech_sync_read(uint8_t address, uint8_t size, const uint8_t *ids, uint8_t count,
                         uint8_t packet[FEETECH_LONGEST]);

/* Makes the packet that writes at `address` of `count` servos the lowest `size` bytes, 1 or 2, of a value each. */
size_t feetech_sync_write(uint8_t address, uint8_t size, const uint8_t *ids, const uint16_t *values, uint8_t count,
                          uint8_t packet[FEETECH_LONGEST]);

/* A value whose bit 15 is the sign, as a number, and back; a magnitude above 32767 is cut. */
int32_t feetech_number(uint16_t word);
uint16_t feetech_word(int32_t number);

/* What a servo answered; `errors` are bits of its register 65, and with them the data are valid all the same. `data` is
 * valid until the receiver takes another byte. */
struct feetech_status {
    uint8_t id;
    uint8_t errors;
    const uint8_t *data;
    size_t size;
};

struct feetech_receiver {
    uint8_t packet[FEETECH_LONGEST];
    size_t received;
    size_t needed; /* so many bytes are received before there can be a packet */
    size_t valid; /* size of the status packet at the begin of `packet`, 0 where there is none yet */
};

/* Forgets the bytes of a packet that never became complete. */
void feetech_reset(struct feetech_receiver *receiver);

/* Takes one byte from the bus; returns whether feetech_next is to be called. */
bool feetech_receive(struct feetech_receiver *receiver, uint8_t byte);

/* Takes the next answer of the bytes that came; returns false where there is none. To be called until then. An
 * answer has as many bytes of data as the request asked for, `size` or `other_size`: with FF FF, which may also be
 * data, that tells where a packet begins. Packets to all servos are ignored: they are those that the board itself
 * sent. Where a packet is damaged, the search for the next one goes on at its second byte. */
bool feetech_next(struct feetech_receiver *receiver, size_t size, size_t other_size, struct feetech_status *status);

#endif
