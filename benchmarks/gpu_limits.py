"""What a CUDA device reaches at best: products of the vendor's library, and bytes that are only read.

    python -m benchmarks.gpu_limits

The rates by which every other measurement of the same run is judged.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from benchmarks.gpu_clock import describe_clock, ramp_clock

SIDE = 8192
READ_BYTES = 2**32
REPLAYS = 20


@dataclass(frozen=True)
class Limits:
    """Of one device.

    Attributes:
        bf16: Operations per second of `torch.mm`.
        int8: Of `_int_mm`.
        fp8: Of `_scaled_mm`; 0 where the device has no such units.
        read: Bytes per second of a reduction.
    """

    bf16: float
    int8: float
    fp8: float
    read: float


def milliseconds(call: Callable[[], object], replays: int = REPLAYS) -> list[float]:
    """Device times of `replays` calls, sorted, after three that are not counted."""
    for _ in range(3):
        call()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(replays)]
    for start, end in events:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return sorted(start.elapsed_time(end) for start, end in events)


def measure_limits() -> Limits:
    """Takes a few seconds and 5 GB; the clock is up afterwards."""
    ramp_clock()
    half = torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16)
    whole = torch.randint(-127, 128, (SIDE, SIDE), device="cuda", dtype=torch.int8)
    bf16 = _operations(lambda: half @ half)
    int8 = _operations(lambda: torch.ops.aten._int_mm(whole, whole.t()))
    fp8 = 0.0
    if torch.cuda.get_device_capability() >= (8, 9):
        small, one = half.to(torch.float8_e4m3fn), torch.ones((), device="cuda")
        fp8 = _operations(lambda: torch.ops.aten._scaled_mm(small, small.t(), one, one, out_dtype=torch.bfloat16))
    stream = torch.ones(READ_BYTES // 4, device="cuda")
    return Limits(bf16, int8, fp8, READ_BYTES / statistics.median(milliseconds(stream.sum)) * 1e3)


def _operations(call: Callable[[], object]) -> float:
    return 2.0 * SIDE**3 / statistics.median(milliseconds(call)) * 1e3


if __name__ == "__main__":
    print(json.dumps({"device": torch.cuda.get_device_name(), **asdict(measure_limits()), **describe_clock()}))
