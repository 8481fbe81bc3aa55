"""The bridge that runs on this machine, and how the kernel treats it, as /proc says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pi0_edge.doctor.kernel_files import processors, text

UNIT = "pi0-edge-bridge.service"
"""The unit that `pi0-edge robot provision` installs."""

_REAL_TIME_POLICIES = (1, 2)  # SCHED_FIFO, SCHED_RR
_NICENESS, _PRIORITY, _POLICY = 16, 37, 38  # fields of /proc/PID/stat (proc(5)), counted from the one after the name
_COMMANDS = (
    ("-m", "firmware_bridge"),
    ("main.py", "launch", "bridge"),
    ("pi0-edge", "bridge"),
    ("pi0_edge.cli", "bridge"),
)


@dataclass(frozen=True)
class BridgeProcess:
    """A running bridge.

    Attributes:
        pid: Of its process.
        priority: Lowest real-time priority of its threads; 0 where one has none.
        niceness: Of its main thread.
        locked_kib: Memory that stays in RAM.
        memory_limit: Of locked memory, as the kernel says it.
        cpus: Processors on which its threads may run.
    """

    pid: int
    priority: int
    niceness: int
    locked_kib: int
    memory_limit: str
    cpus: frozenset[int]

    def __str__(self) -> str:
        return f"process {self.pid}"


def running_bridge(root: Path) -> BridgeProcess | None:
    """The bridge below this root folder, the oldest of several; None where none runs."""
    folders = sorted((path for path in root.glob("proc/[0-9]*")), key=lambda path: int(path.name))
    return next((found for folder in folders if _is_bridge(folder) and (found := read_process(folder))), None)


def allowed_by_unit(root: Path, directive: str) -> str:
    """That the provisioned unit of the bridge allows something, as the end of a sentence; empty where it does not."""
    unit = text(root / "etc/systemd/system" / UNIT)
    found = re.search(rf"^{directive}=.*$", unit, re.MULTILINE)
    return "" if found is None else f"; the provisioned unit of the bridge allows it ({found[0]})"


def _is_bridge(folder: Path) -> bool:
    words = tuple(Path(word).name for word in text(folder / "cmdline").split("\0"))
    return any(words[place : place + len(wanted)] == wanted for wanted in _COMMANDS for place in range(len(words)))


def read_process(folder: Path) -> BridgeProcess | None:
    """What /proc/PID, a folder, says of a process; None where it has ended."""
    threads = [fields for path in folder.glob("task/*/stat") if (fields := _stat(path))]
    main, status = _stat(folder / "stat"), text(folder / "status")
    if not main or not threads:
        return None  # it has just ended
    locked = re.search(r"^VmLck:\s+(\d+) kB", status, re.MULTILINE)
    limit = re.search(r"^Max locked memory\s+(\S+)", text(folder / "limits"), re.MULTILINE)
    allowed = re.search(r"^Cpus_allowed_list:\s+(\S+)", status, re.MULTILINE)
    priorities = [int(one[_PRIORITY]) if int(one[_POLICY]) in _REAL_TIME_POLICIES else 0 for one in threads]
    return BridgeProcess(
        pid=int(folder.name),
        priority=min(priorities),
        niceness=int(main[_NICENESS]),
        locked_kib=0 if locked is None else int(locked[1]),
        memory_limit="an unknown limit" if limit is None else f"{limit[1]} bytes".replace("unlimited bytes", "none"),
        cpus=frozenset() if allowed is None else processors(allowed[1]),
    )


def _stat(path: Path) -> list[str]:
    """Fields from the state on; the name before it may hold anything."""
    fields = text(path).rpartition(")")[2].split()
    return fields if len(fields) > _POLICY else []
