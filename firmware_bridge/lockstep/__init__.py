"""The compiled core of the firmware in this process, driven step by step: no clock, no threads, the same every time."""
