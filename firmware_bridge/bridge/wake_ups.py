"""How late a thread wakes up: the measurement of `cyclictest`, from a Python thread with the settings of the bridge.

The thread sleeps until due times t0 + k · interval by `clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME)` and notes by
how much each was missed. Unlike `cyclictest`, it skips no due time after a stall: 100 ms without the processor at an
interval of 1 ms are 100 late wake-ups, as they would be 100 late actions. What is noted is when Python goes on, with
the interpreter's lock in its hands, as a thread of the bridge would: a thread that holds the lock delays it.

Run as a module, this is the process that measures: settings as arguments, lateness on standard output.
"""

import ctypes
import errno
import json
import sys
import time
from array import array

from firmware_bridge.bridge.thread_settings import BRIDGE, ThreadSettings
from pi0_edge.errors import ConfigError

_TIMER_ABSTIME = 1
_START_NS = 20_000_000
_SECOND_NS = 1_000_000_000


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def wake_up_lateness(count: int, interval_us: int) -> "array[int]":
    """Sleeps until so many due times in the calling thread.

    Args:
        count: Of due times.
        interval_us: Between two of them, in microseconds.

    Returns:
        int64: nanoseconds after each due time, in their order.
    """
    libc = ctypes.CDLL(None)
    sleep, clock, absolute = libc.clock_nanosleep, ctypes.c_int(time.CLOCK_MONOTONIC), ctypes.c_int(_TIMER_ABSTIME)
    due, lateness = _TimeSpec(), array("q", bytes(8 * count))
    at, now_ns = ctypes.byref(due), time.monotonic_ns
    due_ns = now_ns() + _START_NS
    for place in range(count):
        due.seconds, due.nanoseconds = divmod(due_ns, _SECOND_NS)
        while sleep(clock, absolute, at, None) == errno.EINTR:
            pass
        lateness[place] = now_ns() - due_ns
        due_ns += interval_us * 1000
    return lateness


def command(count: int, interval_us: int, started_with: ThreadSettings) -> list[str]:
    """Of the process that measures.

    It takes these settings or ends with 1 and says why not, then asks for those of the bridge as the bridge does. It
    writes a line with the settings that it has, then int64 nanoseconds.

    Args:
        count: Of due times.
        interval_us: Between two of them, in microseconds.
        started_with: What whoever starts the bridge gives it.
    """
    return [sys.executable, "-m", __name__, str(count), str(interval_us), json.dumps(started_with.to_dict())]


def main(arguments: list[str]) -> int:
    """Applies the settings, measures, and writes what came out."""
    count, interval_us, started_with = arguments
    try:
        ThreadSettings.from_dict(json.loads(started_with)).apply()
    except ConfigError as error:
        sys.stderr.write(str(error))
        return 1
    BRIDGE.apply_what_is_allowed()
    out = sys.stdout.buffer
    out.write(json.dumps(ThreadSettings.present().to_dict()).encode() + b"\n")
    out.flush()
    out.write(wake_up_lateness(int(count), int(interval_us)).tobytes())
    out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
