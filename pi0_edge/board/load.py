"""What else a computer does: memory, swap, the time of its processors, and who took it."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pi0_edge.board.files import text

MOST_PROCESSES = 10
"""How many others are told by name."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_KERNEL_THREAD = 0x00200000
"""PF_KTHREAD among the flags of a process (include/linux/sched.h)."""
_FORKS = re.compile(r"^processes (\d+)$", re.MULTILINE)
_MEMORY_LINE = re.compile(r"^(MemAvailable|SwapTotal|SwapFree):\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Memory:
    """Bytes; None where the kernel does not say.

    Attributes:
        available: That a program may still take without swapping.
        swap_used: What lies in swap.
    """

    available: int | None
    swap_used: int | None


@dataclass(frozen=True)
class ProcessorTime:
    """Seconds of all processors together since the start; None where the kernel does not say.

    Attributes:
        busy: That they worked for processes and the kernel, interrupts among them.
        stolen: In which a hypervisor gave them to others.
        forks: Processes and threads that were started.
    """

    busy: float | None
    stolen: float | None
    forks: int | None


@dataclass(frozen=True)
class Shares:
    """Who took the time of the processors.

    Attributes:
        own_s: The processes of the measurement, since each of them began; None where there are none.
        others_s: The others, since they were first looked at: name and process id -> seconds, the largest first.
    """

    own_s: float | None
    others_s: dict[str, float]


def read_memory(root: Path) -> Memory:
    """Memory and swap."""
    found = {name: int(kilobytes) * 1024 for name, kilobytes in _MEMORY_LINE.findall(text(root / "proc/meminfo"))}
    swap = found["SwapTotal"] - found["SwapFree"] if {"SwapTotal", "SwapFree"} <= found.keys() else None
    return Memory(found.get("MemAvailable"), swap)


def read_processor_time(root: Path) -> ProcessorTime:
    """The first line of /proc/stat: user, nice, system, idle, waiting, interrupt, soft interrupt, stolen.

    Most kernels count it by looking who runs at each tick of their clock: what wakes up with that clock is counted too
    often. The time of a process is counted exactly.
    """
    content = text(root / "proc/stat")
    started = _FORKS.search(content)
    forks = None if started is None else int(started[1])
    words = content.partition("\n")[0].split()
    if len(words) < 9 or words[0] != "cpu" or not all(word.isdigit() for word in words[1:9]):
        return ProcessorTime(None, None, forks)
    user, nice, system, _, _, interrupt, soft_interrupt, stolen = (int(word) / _TICKS_PER_S for word in words[1:9])
    return ProcessorTime(user + nice + system + interrupt + soft_interrupt, stolen, forks)


@dataclass(frozen=True)
class _Process:
    name: str
    parent: int
    is_kernel: bool
    seconds: float
    """Of itself."""
    children_seconds: float
    """Of those of its children that have ended and that it has waited for."""


class Processes:
    """The processes of a computer, and which of them belong to a measurement.

    Some 20 µs for each process that runs: look at them seldom.
    """

    def __init__(self, root: Path, own: Collection[int]) -> None:
        """Looks at nothing yet.

        Args:
            root: Of the file system.
            own: Ids of the processes of the measurement. What they start is theirs too, also when it outlives them.
        """
        self._folder = root / "proc"
        self._own_roots = frozenset(own)
        self._own: set[tuple[int, int]] = set()
        self._first: dict[tuple[int, int], float] | None = None
        self._last: dict[tuple[int, int], tuple[str, float]] = {}

    def read(self) -> Shares:
        """Looks at all of them."""
        found = self._all()
        own = self._own_among(found)
        own_s = sum(found[key].seconds + found[key].children_seconds for key in own) if own else None
        others = {key: process for key, process in found.items() if key not in own}
        if self._first is None:
            self._first = {key: process.seconds for key, process in others.items()}
        self._last.update(
            {
                key: (f"[{process.name}]" if process.is_kernel else process.name, process.seconds)
                for key, process in others.items()
            }
        )
        taken: dict[str, float] = {}
        for (process_id, start), (name, seconds) in self._last.items():
            since = seconds - self._first.get((process_id, start), 0.0)
            if since > 0:
                label = f"{name} {process_id}"
                taken[label] = taken.get(label, 0.0) + since
        largest = sorted(taken.items(), key=lambda one: -one[1])[:MOST_PROCESSES]
        return Shares(own_s, dict(largest))

    def _all(self) -> dict[tuple[int, int], _Process]:
        """Process id and the tick of its start, which another process of the same id does not share -> process."""
        found = {}
        try:
            entries = os.listdir(self._folder)
        except OSError:
            return {}
        for entry in entries:
            if entry.isdigit() and (process := _parse(text(f"{self._folder}/{entry}/stat"))) is not None:
                found[(int(entry), process[0])] = process[1]
        return found

    def _own_among(self, found: dict[tuple[int, int], _Process]) -> set[tuple[int, int]]:
        """The measurement's, with everything that descends from it; who was once its own stays so."""
        children: dict[int, list[tuple[int, int]]] = {}
        for key, process in found.items():
            children.setdefault(process.parent, []).append(key)
        own: set[tuple[int, int]] = set()
        open_keys = [key for key in found if key[0] in self._own_roots or key in self._own]
        while open_keys:
            key = open_keys.pop()
            if key not in own:
                own.add(key)
                open_keys += children.get(key[0], [])
        self._own |= own
        return own


def _parse(stat: str) -> tuple[int, _Process] | None:
    """Tick of the start, and the process; None where it has ended meanwhile. Its name may hold blanks and brackets."""
    head, _, tail = stat.rpartition(")")
    words = tail.split()
    if len(words) < 20:
        return None
    try:
        user, system, children_user, children_system = (int(word) / _TICKS_PER_S for word in words[11:15])
        process = _Process(
            name=head.partition("(")[2],
            parent=int(words[1]),
            is_kernel=bool(int(words[6]) & _KERNEL_THREAD),
            seconds=user + system,
            children_seconds=children_user + children_system,
        )
        return int(words[19]), process
    except ValueError:
        return None
