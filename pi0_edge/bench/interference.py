"""What runs beside a bench on purpose, as it does on a robot: other programs, by the stress tool `stress-ng`."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pi0_edge.errors import BenchError, MissingDependencyError

LOADS = {
    "cpu": ("--cpu", "1", "--cpu-method", "matrixprod"),
    "memory": ("--stream", "1"),
    "io": ("--hdd", "1", "--hdd-bytes", "64M"),
    "network": ("--sock", "1"),
}
"""Name -> arguments of stress-ng: one processor that computes, memory bandwidth, writes to the disk, packets on
loopback."""

_STARTS_S = 0.5
_ENDS_S = 10.0


@contextmanager
def interference(loads: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Runs loads as long as the context lasts.

    Args:
        loads: Names in `LOADS`.

    Yields:
        The commands, one for each load.

    Raises:
        BenchError: If a load is not known, or does not start.
        MissingDependencyError: If stress-ng is not installed.
    """
    if unknown := [load for load in loads if load not in LOADS]:
        raise BenchError(f"there is no load {unknown[0]!r}; expected one of {', '.join(LOADS)}")
    if loads and shutil.which("stress-ng") is None:
        raise MissingDependencyError(
            "loads are made by stress-ng, which is not installed: sudo apt-get install stress-ng"
        )
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="pi0-edge-load-") as folder:
        commands = [["stress-ng", *LOADS[load]] for load in loads]
        try:
            for command in commands:
                started.append(_start([*command, "--temp-path", folder]))
            yield tuple(" ".join(command) for command in commands)
        finally:
            for process in started:
                process.terminate()
            for process in started:
                _end(process)


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        process.wait(_STARTS_S)
    except subprocess.TimeoutExpired:
        return process
    said = b"" if process.stderr is None else process.stderr.read()
    raise BenchError(f"`{' '.join(command)}` ended with {process.returncode}: {said.decode(errors='replace').strip()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_ENDS_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
