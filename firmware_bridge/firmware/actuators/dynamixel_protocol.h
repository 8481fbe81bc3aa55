/* Packets of Dynamixel protocol 2.0, as the vendor's e-manual describes them:
 *
 *   FF FF FD 00 | id | length (2) | instruction | parameters | CRC-16 (2)
 *
 * Little endian; the length counts from the instruction to the CRC. The CRC (polynomial 8005h, from 0, most significant
 * bit first) covers all before it. Where FF FF FD occurs from the instruction on, another FD follows it. */
#ifndef DYNAMIXEL_PROTOCOL_H
#define DYNAMIXEL_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    DYNAMIXEL_MOST_SERVOS = 32,
    DYNAMIXEL_HEAD = 8, /* up to the instruction */
    DYNAMIXEL_MOST_PARAMETERS = 4 + 5 * DYNAMIXEL_MOST_SERVOS,
    DYNAMIXEL_LONGEST = DYNAMIXEL_HEAD + DYNAMIXEL_MOST_PARAMETERS * 4 / 3 + 2, /* all of it stuffed */
    DYNAMIXEL_BROADCAST = 0xFE,
};

enum dynamixel_instruction {
    DYNAMIXEL_PING = 0x01,
    DYNAMIXEL_READ = 0x02,
    DYNAMIXEL_WRITE = 0x03,
    DYNAMIXEL_STATUS = 0x55,
    DYNAMIXEL_SYNC_READ = 0x82,
    DYNAMIXEL_SYNC_WRITE = 0x83,
};

uint16_t dynamixel_crc(uint16_t crc, const uint8_t *data, size_t size);

/* Makes a packet of at most DYNAMIXEL_MOST_PARAMETERS parameters; returns its size. */
size_t dynamixel_packet(uint8_t id, uint8_t instruction, const uint8_t *parameters, size_t size,
                        uint8_t packet[DYNAMIXEL_LONGEST]);

/* Makes the packet that writes four bytes at `address` of the servos 1 to `count`. */
size_t dynamixel_sync_write(uint16_t address, const uint32_t *values, uint8_t count,
                            uint8_t packet[DYNAMIXEL_LONGEST]);

/* A status packet; `error` is 0 without an error, its highest bit is the servo's hardware alert. */
struct dynamixel_status {
    uint8_t id;
    uint8_t error;
    uint8_t parameters[DYNAMIXEL_MOST_PARAMETERS];
    size_t size;
};

struct dynamixel_receiver {
    uint8_t packet[DYNAMIXEL_LONGEST];
    size_t received;
    uint32_t damaged; /* packets with a wrong CRC or an impossible length */
};

/* Takes one byte from the bus; returns true where it completes a valid status packet. Instructions are ignored. */
bool dynamixel_receive(struct dynamixel_receiver *receiver, uint8_t byte, struct dynamixel_status *status);

#endif
