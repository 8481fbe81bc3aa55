#include "frame_encoder.h"

#include <string.h>

#include "crc32.h"

size_t cobs_encode(const uint8_t *data, size_t size, uint8_t *out)
{
    uint8_t *code = out;
    uint8_t *end = out + 1;
    for (size_t i = 0; i < size; i++) {
        if (data[i] != 0) {
            *end++ = data[i];
        } else {
            *code = (uint8_t)(end - code);
            code = end++;
        }
    }
    *code = (uint8_t)(end - code);
    return (size_t)(end - out);
}

size_t frame_encode(uint8_t type, uint16_t seq, const uint8_t *payload, size_t size, uint8_t *out)
{
    uint8_t body[LINK_MAX_FRAME];
    if (size > LINK_MAX_PAYLOAD) {
        return 0;
    }
    const struct link_header header = {.type = type, .seq = seq};
    size_t length = link_pack_header(&header, body);
    memcpy(body + length, payload, size);
    length += size;
    link_put(body + length, crc32_update(0, body, length), LINK_CRC_SIZE);
    const size_t encoded = cobs_encode(body, length + LINK_CRC_SIZE, out);
    out[encoded] = 0;
    return encoded + 1;
}
