"""Starts a program with the settings of one row of `benchmarks.real_time_settings`, as a unit of systemd would.

    python -m benchmarks.real_time_start '{"settings": …, "may_be_nice": true, "may_lock": false}' PROGRAM ARGUMENTS

Priority and processors are inherited by the program. Niceness and locked memory it asks for itself; where the row is
without them, the right to ask is taken away.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys

from firmware_bridge.bridge.thread_settings import ThreadSettings

_PR_CAPBSET_DROP = 24
_CAP_IPC_LOCK, _CAP_SYS_NICE = 14, 23
_LITTLE_MEMORY = 8 << 20


def main() -> None:
    """Becomes the program."""
    row = json.loads(sys.argv[1])
    settings = ThreadSettings.from_dict(row["settings"])
    os.setpriority(os.PRIO_PROCESS, 0, settings.niceness)  # and not that of whoever starts it
    settings.apply()
    libc = ctypes.CDLL(None)
    if not row["may_be_nice"]:
        libc.prctl(_PR_CAPBSET_DROP, _CAP_SYS_NICE)
    if not row["may_lock"]:
        libc.prctl(_PR_CAPBSET_DROP, _CAP_IPC_LOCK)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (_LITTLE_MEMORY, _LITTLE_MEMORY))
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
