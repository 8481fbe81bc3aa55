"""How the threads of the bridge are scheduled, and that their memory stays in RAM; Linux only.

The bridge asks for `BRIDGE`, as far as it may: niceness, and locked memory where nothing limits how much. A
real-time priority and processors of its own come from whoever starts it (`CPUSchedulingPolicy=`, `CPUAffinity=` of
systemd), and every thread inherits both. The jitter test measures a thread with the same settings (`wake_ups`).

Imports nothing but Python's own modules, so that the process that measures starts quickly and does nothing else.
"""

import ctypes
import dataclasses
import os
import re
import resource
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi0_edge.errors import ConfigError

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_CAP_IPC_LOCK = 14
_HIGHEST_PRIORITY = 99
_LOWEST_NICENESS, _HIGHEST_NICENESS = -20, 19
_WHERE = "`pi0-edge doctor --real-time` says what this machine allows"


@dataclass(frozen=True)
class ThreadSettings:
    """How a thread, and each that it starts, is scheduled.

    Attributes:
        niceness: From -20, the most urgent, to 19; 0 is the usual one. It counts among threads without a priority.
        priority: Of SCHED_FIFO, 1 to 99; 0 is the usual policy, without a real-time priority.
        cpus: Processors that it may run on; all of the process where empty.
        lock_memory: The whole process stays in RAM, now and later.
    """

    niceness: int = 0
    priority: int = 0
    cpus: frozenset[int] = frozenset()
    lock_memory: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.priority <= _HIGHEST_PRIORITY:
            raise ConfigError(f"priority is {self.priority}; give 1 to {_HIGHEST_PRIORITY}, or 0 for none")
        if not _LOWEST_NICENESS <= self.niceness <= _HIGHEST_NICENESS:
            raise ConfigError(f"niceness is {self.niceness}; give {_LOWEST_NICENESS} to {_HIGHEST_NICENESS}")

    def apply(self) -> None:
        """Sets the calling thread, and locks the memory of the process.

        Raises:
            ConfigError: Something of it is not allowed here, or a processor does not exist.
        """
        if self.lock_memory and not lock_memory():
            raise ConfigError(f"memory cannot be locked; {_WHERE}")
        try:
            if self.cpus:
                os.sched_setaffinity(0, self.cpus)
            if self.niceness:
                os.setpriority(os.PRIO_PROCESS, 0, self.niceness)
            if self.priority:
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(self.priority))
        except OSError as error:
            raise ConfigError(f"{self} is not possible here ({error.strerror}); {_WHERE}") from error

    def apply_what_is_allowed(self) -> None:
        """Does as `apply`, and leaves out what is not allowed; memory only where nothing limits how much."""
        if self.lock_memory and _may_lock_all():
            lock_memory()
        for name in ("cpus", "niceness", "priority"):
            with suppress(ConfigError):
                ThreadSettings(**{name: getattr(self, name)}).apply()

    def __str__(self) -> str:
        """Such as `SCHED_FIFO 50, niceness -10, processors 3, memory locked`."""
        parts = [f"SCHED_FIFO {self.priority}" if self.priority else "SCHED_OTHER", f"niceness {self.niceness}"]
        if self.cpus:
            parts.append(f"processors {','.join(map(str, sorted(self.cpus)))}")
        return ", ".join([*parts, "memory locked"] if self.lock_memory else parts)

    @classmethod
    def present(cls) -> "ThreadSettings":
        """Those of the calling thread; round robin counts as first in, first out."""
        real_time = os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)
        return cls(
            niceness=os.getpriority(os.PRIO_PROCESS, 0),
            priority=os.sched_getparam(0).sched_priority if real_time else 0,
            cpus=frozenset(os.sched_getaffinity(0)),
            lock_memory=_locked_kib() > 0,
        )

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON has."""
        return dataclasses.asdict(self) | {"cpus": sorted(self.cpus)}

    @classmethod
    def from_dict(cls, read: Mapping[str, Any]) -> "ThreadSettings":
        """What `to_dict` gave."""
        return cls(**{**read, "cpus": frozenset(read["cpus"])})


BRIDGE = ThreadSettings(niceness=-10, lock_memory=True)
"""What the bridge asks for: the heartbeat must wait neither for a policy that takes all processors nor for a disk."""


def lock_memory() -> bool:
    """Locks what the process has in RAM and what it will touch; whether that was allowed.

    Each page is locked when it is first used (MCL_ONFAULT): else every thread's stack, of which a few kilobytes are
    used, would take its whole 8 MB.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0


def _may_lock_all() -> bool:
    """Whether locked memory has no limit: beneath one, later requests for memory would fail once it is reached."""
    capable = int(_status("CapEff") or "0", 16) >> _CAP_IPC_LOCK & 1  # which no limit holds for
    return bool(capable) or resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY


def _locked_kib() -> int:
    """Memory of this process that is locked."""
    return int(_status("VmLck").removesuffix(" kB") or "0")


def _status(name: str) -> str:
    """A line of this process in /proc; empty where the kernel has none of that name."""
    found = re.search(rf"^{name}:\s+(.+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return "" if found is None else found[1]
