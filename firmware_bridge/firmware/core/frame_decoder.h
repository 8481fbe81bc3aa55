/* Decodes the bytes of the line to frames, one byte at a time, without copying a frame.
 *
 * COBS is decoded while bytes arrive; the CRC is checked at the zero byte that ends a frame. A damaged or incomplete
 * frame is counted and dropped, and decoding restarts at the next zero byte. */
#ifndef FRAME_DECODER_H
#define FRAME_DECODER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "serial_link.h"

struct frame {
    uint8_t type;
    uint16_t seq;
    const uint8_t *payload; /* inside the decoder; valid until the next byte */
    size_t size;
};

struct frame_decoder {
    uint8_t data[LINK_MAX_FRAME];
    size_t size;
    uint8_t block_left; /* bytes of the COBS block that are still to come */
    bool zero_due;      /* the block before this one ended in a zero byte that COBS had removed */
    bool started;
    bool broken; /* too long, or an impossible block: skip to the next zero byte */
    uint32_t crc_errors;
    uint32_t framing_errors;
};

void frame_decoder_init(struct frame_decoder *decoder);

/* Returns true where `byte` completes an intact frame, which `frame` then shows. */
bool frame_decoder_push(struct frame_decoder *decoder, uint8_t byte, struct frame *frame);

#endif
