"""The compiled core of the firmware in this process, run step by step: no clock, no threads, reproducible."""
