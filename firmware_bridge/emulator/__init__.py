"""Replacements for hardware: the emulated board, the serial line to the bridge, and the buses of its servos.

Nothing is imported here, so that these processes start quickly.
"""
