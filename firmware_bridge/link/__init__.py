"""The serial link: bytes of a port to messages, chunks to acknowledged transfers, ticks to host time."""
