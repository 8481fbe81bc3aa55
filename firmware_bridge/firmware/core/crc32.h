/* CRC-32 with the polynomial, the reflection and the final inversion of zlib. */
#ifndef CRC32_H
#define CRC32_H

#include <stddef.h>
#include <stdint.h>

/* Continues `crc` (0 for a new one) over `size` bytes. */
uint32_t crc32_update(uint32_t crc, const uint8_t *data, size_t size);

#endif
