"""The clock of a GPU: brought up before anything is timed, and named in every report.

An idle GPU runs slowly and takes seconds to reach its clock. A Jetson has power modes besides (nvpmodel), which limit
it: a time without clock and power mode cannot be compared with another one.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

RAMP_S = 3.0
ROUNDS = 3
SIDE = 4096
DEVFREQ = Path("/sys/class/devfreq")
_NVIDIA_SMI = "--query-gpu=clocks.sm,clocks.max.sm,clocks.mem,power.limit"

Candidate = TypeVar("Candidate", bound=Hashable)


def ramp_clock(seconds: float = RAMP_S, device: str = "cuda", side: int = SIDE) -> int:
    """Multiplies matrices for some seconds, and says how often."""
    a = torch.ones(side, side, device=device, dtype=torch.bfloat16)
    started, products = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        (a @ a)[0, 0].item()  # waits, so that work does not pile up
        products += 1
    return products


def describe_clock(devfreq: Path = DEVFREQ) -> dict[str, str]:
    """Power mode and clocks, as the machine tells them now; "not told" where it does not."""
    frequencies = [
        f"{path.parent.name} {path.read_text().strip()} of {(path.parent / 'max_freq').read_text().strip()} Hz"
        for path in sorted(devfreq.glob("*/cur_freq"))
        if "gpu" in path.parent.name or "gpc" in path.parent.name or "ga10b" in path.parent.name
    ]
    clocks = _said("nvidia-smi", _NVIDIA_SMI, "--format=csv,noheader") if not frequencies else "; ".join(frequencies)
    return {"power mode": _said("nvpmodel", "-q"), "clocks": clocks}


def fastest(
    candidates: Sequence[Candidate], seconds: Callable[[Candidate], float], rounds: int = ROUNDS
) -> tuple[Candidate, dict[Candidate, float]]:
    """The fastest candidate, and the median time of each.

    They are timed in turns, so that a clock that changes meanwhile meets all of them, and the two fastest once more.
    """
    times: dict[Candidate, list[float]] = {candidate: [] for candidate in candidates}
    for _ in range(rounds):
        for candidate in candidates:
            times[candidate].append(seconds(candidate))
    ranked = sorted(candidates, key=lambda candidate: statistics.median(times[candidate]))
    for _ in range(rounds):
        for candidate in ranked[:2]:
            times[candidate].append(seconds(candidate))
    medians = {candidate: statistics.median(found[-rounds:]) for candidate, found in times.items()}
    return min(ranked[:2], key=medians.__getitem__), medians


def _said(program: str, *arguments: str) -> str:
    """What a program says, in one line."""
    if shutil.which(program) is None:
        return "not told"
    try:
        ran = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "not told"
    return ", ".join(ran.stdout.split("\n")).strip(", ") if ran.returncode == 0 else "not told"
