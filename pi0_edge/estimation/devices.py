"""What a device can do, with the source of each figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from pi0_edge.errors import ConfigError

KERNELS_SHARED_KB = 156
"""What `KernelLibrary.require_device` asks of a GPU."""
_FILE = Path(__file__).parent / "devices.yaml"


@dataclass(frozen=True)
class Figure:
    """One rate that kernels reach.

    Attributes:
        value: tera-operations per second, GB/s, or µs, as its name in the file says.
        basis: measured, scaled or modelled; see `devices.yaml`.
        source: Where it comes from.
    """

    value: float
    basis: str
    source: str


@dataclass(frozen=True)
class Device:
    """One GPU.

    Attributes:
        key: As on the command line.
        name: For people.
        memory_gb: That it has, shared with the CPU on a Jetson.
        l2_mb: Of cache.
        multiprocessors: That it has.
        clock_ghz: At which they run.
        architecture: Compute capability without the dot.
        shared_kb: Of shared memory, in KiB, that a block may take.
        sheet: Rates of the data sheet: tera-operations per second by unit (bf16, int8, fp8, int4), and gb_s.
        sheet_source: Where they stand.
        reached: The same rates as real kernels reach them, bf16 and fp8 those of torch; fp8_mma_sync, of our FP8
            product; l2_gb_s, of the cache; launch_us, the gap between two kernels of a graph; and ramp_us, of starting
            and draining a kernel.
        boards: How the device tree of a computer with it begins to call itself; empty for a card in a PC.
    """

    key: str
    name: str
    memory_gb: float
    l2_mb: float
    multiprocessors: int
    clock_ghz: float
    architecture: int
    shared_kb: int
    sheet: Mapping[str, float]
    sheet_source: str
    reached: Mapping[str, Figure]
    boards: tuple[str, ...] = ()

    @property
    def l2_bytes(self) -> float:
        """Of its cache, whose data sheet counts in 2^20."""
        return self.l2_mb * 2**20

    @property
    def runs_kernels(self) -> bool:
        """Whether a block may take as much shared memory as the largest kernel needs."""
        return self.shared_kb >= KERNELS_SHARED_KB

    @property
    def has_fp8(self) -> bool:
        """Whether its tensor cores multiply FP8."""
        return "fp8" in self.sheet


@cache
def devices() -> dict[str, Device]:
    """Every device of the file by its key."""
    read = yaml.safe_load(_FILE.read_text())
    return {
        key: Device(
            key=key,
            **{
                **plain,
                "reached": {name: Figure(**figure) for name, figure in plain["reached"].items()},
                "boards": tuple(plain.get("boards", ())),
            },
        )
        for key, plain in read.items()
    }


def find_device(key: str) -> Device:
    """The device called `key`.

    Raises:
        ConfigError: If there is none.
    """
    if key not in devices():
        raise ConfigError(f"device {key!r} is not known; expected one of {', '.join(devices())}")
    return devices()[key]


def find_board(model: str) -> Device | None:
    """The device of a computer; None where none is known.

    Args:
        model: As its device tree calls it, such as `NVIDIA Jetson AGX Orin Developer Kit`.
    """
    found = [
        (len(board), device) for device in devices().values() for board in device.boards if model.startswith(board)
    ]
    return max(found, key=lambda one: one[0])[1] if found else None
