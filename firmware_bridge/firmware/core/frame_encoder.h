/* Makes one frame as it crosses the wire: COBS(header, payload, CRC-32) and a zero byte. */
#ifndef FRAME_ENCODER_H
#define FRAME_ENCODER_H

#include <stddef.h>
#include <stdint.h>

#include "serial_link.h"

/* COBS adds one byte because a frame is shorter than 254 bytes; the delimiter is the other. */
#define FRAME_WIRE_SIZE (LINK_MAX_FRAME + 2u)

/* Removes the zero bytes of at most 253 bytes; writes and returns size + 1 bytes. */
size_t cobs_encode(const uint8_t *data, size_t size, uint8_t *out);

/* Returns the bytes written to `out` (FRAME_WIRE_SIZE large), or 0 where the payload is too long. */
size_t frame_encode(uint8_t type, uint16_t seq, const uint8_t *payload, size_t size, uint8_t *out);

#endif
