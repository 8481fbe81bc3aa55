"""The machine: interpreter, packages, processor, memory, disk."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

from pi0_edge.board.readings import Board
from pi0_edge.doctor.check import Check, Status, apt
from pi0_edge.installed_packages import upgrade, version_conflicts

GIB = 2**30
DEMO_MEMORY = 3 * GIB
FULL_SIZE_MEMORY = 9 * GIB
DEMO_DISK = GIB
FULL_SIZE_DISK = 16 * GIB

_INTEGER_UNITS = {
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX VNNI",
    "amx_int8": "AMX INT8",
    "asimddp": "Arm dot product",
    "i8mm": "Arm I8MM",
}
"""Flags in /proc/cpuinfo of instructions that multiply and add 8-bit integers."""


def python() -> Check:
    """The interpreter."""
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < (3, 10):  # noqa: UP036
        return Check("Python", "fail", f"{found}; expected 3.10 or newer", apt("python3", "python3-venv"))
    return Check("Python", "pass", found)


def packages() -> Check:
    """Whether the Python packages that are installed have versions that fit."""
    conflicts = version_conflicts()
    if not conflicts:
        return Check("Python packages", "pass", "those that are installed have versions that fit")
    status: Status = "fail" if any(conflict.for_users for conflict in conflicts) else "warn"
    return Check("Python packages", status, "; ".join(map(str, conflicts)), upgrade(conflicts))


def processor() -> Check:
    """Whether the CPU has an integer dot product, without which INT8 is not faster; and what runs INT8 layers."""
    flags = _cpu_flags()
    units = [name for flag, name in _INTEGER_UNITS.items() if flag in flags]
    found = f"{os.cpu_count()} cores, {platform.machine()}, {', '.join(units) or 'no integer dot product'}"
    found += f"; C library: {_library_instructions()}"
    if not units:
        fix = "use --scheme fp32: INT8 works here but is not faster"
        return Check("processor", "warn", found, fix)
    return Check("processor", "pass", found)


def memory() -> Check:
    """Whether demo and full-size model fit into memory."""
    available = _available_memory()
    found, fix = f"{available / GIB:.1f} GiB available", "free -h; ps aux --sort=-rss"
    if available < DEMO_MEMORY:
        return Check("memory", "fail", f"{found}; the demo needs {DEMO_MEMORY // GIB} GiB", fix)
    if available < FULL_SIZE_MEMORY:
        return Check("memory", "warn", f"{found}; a full-size π0 needs {FULL_SIZE_MEMORY // GIB} GiB", fix)
    return Check("memory", "pass", found)


def disk() -> Check:
    """Free space in the working directory."""
    free = shutil.disk_usage(Path.cwd()).free
    found, fix = f"{free / GIB:.1f} GiB free in {Path.cwd()}", "df -h; du -xh --max-depth=2 | sort -h"
    if free < DEMO_DISK:
        return Check("disk", "fail", f"{found}; the demo needs {DEMO_DISK // GIB} GiB", fix)
    if free < FULL_SIZE_DISK:
        return Check("disk", "warn", f"{found}; a full-size checkpoint needs {FULL_SIZE_DISK // GIB} GiB", fix)
    return Check("disk", "pass", found)


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":", 1)[1].split()}


def _library_instructions() -> str:
    """As `pi0_edge.engine.cpu.CpuEngine.instructions` of a network whose layers are all INT8."""
    try:
        import torch

        from pi0_edge.quant import native
        from pi0_edge.quant.integer_matmul import NativeMatmul, choose_matmul
    except (ImportError, OSError, RuntimeError):  # `torch_build` says so
        return "none"
    chosen = choose_matmul(torch.empty(1, 1, dtype=torch.int8))
    return native.level().name if chosen is NativeMatmul else "none"


def _available_memory() -> int:
    available = Board().available_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if available is None else available
