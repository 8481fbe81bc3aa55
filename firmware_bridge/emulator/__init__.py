"""Replacements for hardware: the emulated board and the serial line between it and the bridge.

Nothing is imported here, so that the process of the line starts quickly.
"""
