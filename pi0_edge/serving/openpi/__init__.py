"""openpi's websocket protocol around the same policy: its robots connect unchanged.

`server` listens, `access` says who may connect, `encoding` reads and writes the messages, `observations` and `replies`
turn them into observations of this SDK and back. See docs/openpi.md.
"""
