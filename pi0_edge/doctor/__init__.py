"""Checks whether this machine can run the demo, the tests, a robot; each finding names the command that fixes it.

It runs on a machine where nothing of the policy is installed; what is missing is then a finding. A check is a function
without arguments that returns a `Check`. To add one, write it in its group (a module here) and list it in `_CHECKS`. It
tries the thing itself where it can: a compiler compiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pi0_edge.doctor.board import boot_slots, jetson, services
from pi0_edge.doctor.check import Check, Status, apt, pip
from pi0_edge.doctor.gpu import cuda, kernels, nvcc, torch_build
from pi0_edge.doctor.intel import openvino
from pi0_edge.doctor.machine import disk, memory, packages, processor, python
from pi0_edge.doctor.policy import checkpoint, rendering
from pi0_edge.doctor.programs import cross_compiler, emulator, host_compiler, static_analysis, unit_test_library
from pi0_edge.doctor.real_time import CHECKS as REAL_TIME
from pi0_edge.doctor.robot import cameras, locked_memory, scheduling, serial_ports
from pi0_edge.installed_packages import foreign_fault

__all__ = [
    "Check",
    "Status",
    "apt",
    "boot_slots",
    "cameras",
    "checkpoint",
    "cross_compiler",
    "cuda",
    "disk",
    "emulator",
    "examine",
    "host_compiler",
    "jetson",
    "kernels",
    "locked_memory",
    "memory",
    "nvcc",
    "openvino",
    "packages",
    "pip",
    "processor",
    "python",
    "rendering",
    "scheduling",
    "serial_ports",
    "services",
    "static_analysis",
    "torch_build",
    "unit_test_library",
]


def examine(*, on_robot: bool = False, real_time: bool = False) -> Iterator[Check]:
    """Runs the checks and yields each as it finishes; one that ends in an error has failed.

    Args:
        on_robot: Leave out what only demo, tests and building need.
        real_time: Only look at what decides how late a thread of the bridge can be.
    """
    if real_time:
        return map(_outcome, (scheduling, locked_memory, *REAL_TIME))
    return map(_outcome, [check for check in _CHECKS if not on_robot or check not in _WORKSTATION])


def _outcome(check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # of whatever package is broken here
        name = check.__name__.replace("_", " ")
        fix = foreign_fault(error) or "pip check"
        return Check(name, "fail", f"{type(error).__name__}: {error}", fix)


_WORKSTATION = (
    memory,  # of the demo; an installer judges the memory that its release needs, and the disk likewise
    disk,
    nvcc,
    emulator,
    cross_compiler,
    host_compiler,
    static_analysis,
    unit_test_library,
    rendering,
    checkpoint,
)
"""What no robot needs."""

_CHECKS: tuple[Callable[[], Check], ...] = (
    python,
    packages,
    processor,
    memory,
    disk,
    torch_build,
    cuda,
    kernels,
    openvino,
    nvcc,
    emulator,
    cross_compiler,
    host_compiler,
    static_analysis,
    unit_test_library,
    rendering,
    checkpoint,
    serial_ports,
    cameras,
    scheduling,
    locked_memory,
    jetson,
    boot_slots,
    services,
)
