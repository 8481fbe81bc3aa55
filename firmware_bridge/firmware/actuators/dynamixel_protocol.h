/* Packets of Dynamixel protocol 2.0, as the vendor's e-manual describes them:
 *
 *   FF FF FD 00 | id | length (2) | instruction | parameters | CRC-16 (2)
 *
 * Little endian; the length counts from the instruction to the CRC. The CRC (polynomial 8005h, from 0, most
 * significant bit first) covers all before it. Where FF FF FD occurs from the instruction on, another FD follows it.
 *
 * A sync read is answered by one status packet from each servo, in the order of its list; a fast sync read by one
 * status packet from all servos together, with the id FEh and never stuffed, in which each servo wrote
 *
 *   error | id | data | CRC-16 (2) of all bytes of the packet before it
 *
 * The last of these CRCs is that of the packet. */
#ifndef DYNAMIXEL_PROTOCOL_H
#define DYNAMIXEL_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    DYNAMIXEL_MOST_SERVOS = 32,
    DYNAMIXEL_HEAD = 8, /* up to the instruction */
    DYNAMIXEL_MOST_PARAMETERS = 4 + 5 * DYNAMIXEL_MOST_SERVOS,
    DYNAMIXEL_LONGEST = DYNAMIXEL_HEAD + DYNAMIXEL_MOST_PARAMETERS * 4 / 3 + 2, /* sent: all of it stuffed */
    DYNAMIXEL_MOST_DATA = 10, /* of one servo in a fast sync read */
    DYNAMIXEL_LONGEST_RECEIVED = DYNAMIXEL_HEAD + DYNAMIXEL_MOST_SERVOS * (4 + DYNAMIXEL_MOST_DATA),
    DYNAMIXEL_BROADCAST = 0xFE,
};

enum dynamixel_instruction {
    DYNAMIXEL_PING = 0x01,
    DYNAMIXEL_READ = 0x02,
    DYNAMIXEL_WRITE = 0x03,
    DYNAMIXEL_STATUS = 0x55,
    DYNAMIXEL_SYNC_READ = 0x82,
    DYNAMIXEL_SYNC_WRITE = 0x83,
    DYNAMIXEL_FAST_SYNC_READ = 0x8A,
};

uint16_t dynamixel_crc(uint16_t crc, const uint8_t *data, size_t size);

/* Makes a packet of at most DYNAMIXEL_MOST_PARAMETERS parameters; returns its size. */
size_t dynamixel_packet(uint8_t id, uint8_t instruction, const uint8_t *parameters, size_t size,
                        uint8_t packet[DYNAMIXEL_LONGEST]);

/* Makes the packet that asks `count` servos for `size` bytes at `address`; `instruction`: one of the two sync reads. */
size_t dynamixel_sync_read(uint8_t instruction, uint16_t address, uint16_t size, const uint8_t *ids, uint8_t count,
                           uint8_t packet[DYNAMIXEL_LONGEST]);

/* Makes the packet that writes at `address` of `count` servos the lowest `size` bytes, 1 to 4, of a value each. */
size_t dynamixel_sync_write(uint16_t address, uint16_t size, const uint8_t *ids, const int32_t *values, uint8_t count,
                            uint8_t packet[DYNAMIXEL_LONGEST]);

/* What a servo answered; `error` is 0 without an error, its highest bit is the servo's hardware alert. `data` is valid
 * until the receiver takes another byte. */
struct dynamixel_status {
    uint8_t id;
    uint8_t error;
    const uint8_t *data;
    size_t size;
};

struct dynamixel_receiver {
    uint8_t packet[DYNAMIXEL_LONGEST_RECEIVED];
    size_t received;
    size_t needed; /* so many bytes are received before there can be a packet */
    size_t valid; /* size of the status packet at the begin of `packet`, 0 where there is none yet */
    size_t next;  /* where the next servo's part of it begins */
};

/* Forgets the bytes of a packet that never became complete. */
void dynamixel_reset(struct dynamixel_receiver *receiver);

/* Takes one byte from the bus; returns whether dynamixel_next is to be called. */
bool dynamixel_receive(struct dynamixel_receiver *receiver, uint8_t byte);

/* Takes the next answer of the bytes that came; returns false where there is none. To be called until then.
 * Instructions are ignored: they are those that the board itself sent. Where a packet is damaged, the search for the
 * next one goes on at its second byte. `fast_size` is how many bytes each servo was asked for by a fast sync read. */
bool dynamixel_next(struct dynamixel_receiver *receiver, size_t fast_size, struct dynamixel_status *status);

#endif
