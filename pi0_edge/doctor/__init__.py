"""What this machine can do: every check looks at the thing itself, and says which command changes it.

Works on a machine where nothing of the policy is installed; what is missing is then a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pi0_edge.doctor import accelerators, machine, policy, programs, real_time, simulation
from pi0_edge.doctor.check import Check

__all__ = ["Check", "examine"]

_CHECKS: tuple[Callable[[], Check], ...] = (
    machine.python,
    machine.processor,
    machine.memory,
    machine.disk,
    accelerators.torch_build,
    accelerators.cuda,
    accelerators.jetson,
    accelerators.nvcc,
    programs.emulator,
    programs.cross_compiler,
    programs.host_compiler,
    programs.static_analysis,
    programs.unit_test_library,
    simulation.rendering,
    policy.checkpoint,
    real_time.serial_ports,
    real_time.scheduling,
    real_time.locked_memory,
)


def examine() -> Iterator[Check]:
    """All checks, as they finish."""
    return (check() for check in _CHECKS)
