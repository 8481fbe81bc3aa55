/* The decoder against any bytes: the encoder reproduces every accepted frame byte for byte. */
#include <stdlib.h>
#include <string.h>

#include "frame_decoder.h"
#include "frame_encoder.h"
#include "fuzz_target.h"

static void check_is_what_was_sent(const struct frame *frame, const uint8_t *sent, size_t size)
{
    uint8_t payload[LINK_MAX_PAYLOAD];
    uint8_t again[FRAME_WIRE_SIZE];
    require(frame->size <= LINK_MAX_PAYLOAD);
    memcpy(payload, frame->payload, frame->size);
    const size_t again_size = frame_encode(frame->type, frame->seq, payload, frame->size, again);
    require(again_size == size && memcmp(again, sent, size) == 0);
}

/* The input itself, and, because a fuzzer does not find a CRC, the input as the body of a frame with a correct CRC. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t line[8192];
    uint8_t body[LINK_MAX_FRAME];
    size = size < sizeof line / 2 ? size : sizeof line / 2;
    memcpy(line, data, size);
    size_t length = size;
    if (size >= LINK_HEADER_SIZE && size <= LINK_MAX_FRAME - LINK_CRC_SIZE) {
        const uint16_t seq = (uint16_t)link_get(data + 1, 2);
        memcpy(body, data + LINK_HEADER_SIZE, size - LINK_HEADER_SIZE);
        line[length++] = 0;
        length += frame_encode(data[0], seq, body, size - LINK_HEADER_SIZE, line + length);
    }
    struct frame_decoder decoder;
    struct frame frame;
    frame_decoder_init(&decoder);
    size_t begin = 0;
    uint32_t taken = 0;
    for (size_t i = 0; i < length; i++) {
        if (frame_decoder_push(&decoder, line[i], &frame)) {
            check_is_what_was_sent(&frame, line + begin, i + 1 - begin);
            taken++;
        }
        begin = line[i] == 0 ? i + 1 : begin;
    }
    require(length == size || taken > 0);
    return 0;
}
