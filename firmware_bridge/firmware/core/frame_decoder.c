#include "frame_decoder.h"

#include <string.h>

#include "crc32.h"

static const uint8_t LONGEST_BLOCK = 0xFF; /* ends without a removed zero byte */

static void begin_frame(struct frame_decoder *decoder)
{
    decoder->size = 0;
    decoder->block_left = 0;
    decoder->zero_due = false;
    decoder->started = false;
    decoder->broken = false;
}

void frame_decoder_init(struct frame_decoder *decoder)
{
    memset(decoder, 0, sizeof *decoder);
}

static void append(struct frame_decoder *decoder, uint8_t byte)
{
    if (decoder->size < LINK_MAX_FRAME) {
        decoder->data[decoder->size++] = byte;
    } else {
        decoder->broken = true;
    }
}

static void begin_block(struct frame_decoder *decoder, uint8_t code)
{
    if (decoder->zero_due) {
        append(decoder, 0);
    }
    decoder->block_left = (uint8_t)(code - 1u);
    decoder->zero_due = code != LONGEST_BLOCK;
}

static bool end_frame(struct frame_decoder *decoder, struct frame *frame)
{
    if (decoder->broken || decoder->block_left != 0 || decoder->size < LINK_HEADER_SIZE + LINK_CRC_SIZE) {
        decoder->framing_errors++;
        return false;
    }
    const size_t covered = decoder->size - LINK_CRC_SIZE;
    if (crc32_update(0, decoder->data, covered) != link_get(decoder->data + covered, LINK_CRC_SIZE)) {
        decoder->crc_errors++;
        return false;
    }
    struct link_header header;
    if (!link_unpack_header(&header, decoder->data, LINK_HEADER_SIZE)) {
        return false;
    }
    frame->type = header.type;
    frame->seq = header.seq;
    frame->payload = decoder->data + LINK_HEADER_SIZE;
    frame->size = covered - LINK_HEADER_SIZE;
    return true;
}

bool frame_decoder_push(struct frame_decoder *decoder, uint8_t byte, struct frame *frame)
{
    if (byte == 0) {
        /* Zero bytes in a row are an idle line, not damage. */
        const bool intact = decoder->started && end_frame(decoder, frame);
        begin_frame(decoder);
        return intact;
    }
    decoder->started = true;
    if (decoder->block_left != 0) {
        append(decoder, byte);
        decoder->block_left--;
    } else {
        begin_block(decoder, byte);
    }
    return false;
}
