"""Makes the file that a Raspberry Pi Pico accepts over USB: `python uf2.py firmware.bin firmware.uf2`.

Fills in the CRC of the second boot stage, without which the ROM refuses the image (RP2040 datasheet, 2.8.1.3.1), and
packs the image into blocks of the UF2 format, 256 bytes of flash each.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

FLASH = 0x10000000
PAYLOAD = 256
_MAGIC_START = (0x0A324655, 0x9E5D5157)
_MAGIC_END = 0x0AB16F30
_FAMILY_PRESENT = 0x2000
_FAMILY_RP2040 = 0xE48BFF56
_BOOT2_SIZE = 256


def crc32_of_rom(data: bytes) -> int:
    """CRC-32 as the ROM computes it: polynomial 0x04C11DB7, most significant bit first, not inverted."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
    return crc


def seal_boot2(image: bytes) -> bytes:
    """Return the image with the CRC of its second boot stage in place."""
    stage = image[: _BOOT2_SIZE - 4]
    return stage + struct.pack("<I", crc32_of_rom(stage)) + image[_BOOT2_SIZE:]


def pack_uf2(image: bytes) -> bytes:
    """Return the blocks that write `image` to the beginning of flash."""
    padded = image + bytes(-len(image) % PAYLOAD)
    count = len(padded) // PAYLOAD
    blocks = []
    for number in range(count):
        address = FLASH + number * PAYLOAD
        head = (*_MAGIC_START, _FAMILY_PRESENT, address, PAYLOAD, number, count, _FAMILY_RP2040)
        payload = padded[number * PAYLOAD : (number + 1) * PAYLOAD].ljust(476, b"\0")
        blocks.append(struct.pack("<8I", *head) + payload + struct.pack("<I", _MAGIC_END))
    return b"".join(blocks)


def main() -> int:
    """Reads the binary image, writes the UF2 file."""
    if len(sys.argv) != 3:
        sys.stderr.write("usage: python uf2.py firmware.bin firmware.uf2\n")
        return 2
    source, target = map(Path, sys.argv[1:])
    target.write_bytes(pack_uf2(seal_boot2(source.read_bytes())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
