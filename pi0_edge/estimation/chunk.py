"""Work divided by what a device can do.

Floor: per stage the larger of operations at the data sheet's rate and weights at the data sheet's bandwidth. Nothing
can be faster. Expected: per kernel the larger of its operations, padded to whole tiles, and its bytes, at the rates
that real kernels reach, and for every launch what a node of a graph costs. None of it was measured on this software.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pi0_edge.errors import ConfigError
from pi0_edge.estimation.devices import Device, find_device
from pi0_edge.estimation.work import Chunk, Kernel, cache_bytes, kernels, network_bytes
from pi0_edge.latency.stages import NETWORK
from pi0_edge.model import PRESETS, Pi0Config
from pi0_edge.quant.schemes import Scheme, find_scheme

TILE_ROWS = {"bf16": (128,), "int8": (128, 144, 160, 192, 256), "fp8": (144, 192)}
"""Rows of the tiles of products: cuBLAS's usual one, and those of `kernels.gemm_plan`. All have one of 64 for less."""
SMALL_TILE = 64
CONTEXT_BYTES = 0.5e9
"""Of a CUDA context with the libraries it loads; torch's own are not in it. Modelled."""
USABLE, SYSTEM_BYTES = 0.92, 1e9
"""A Jetson with 8 GB shows 7.4 of them, and its system takes 1 GB without a screen."""


@dataclass(frozen=True)
class StageEstimate:
    """One stage of the chunk.

    Attributes:
        name: A stage of `pi0_edge.latency.stages.NETWORK`, or launches.
        floor_ms: From the data sheet.
        expected_ms: At rates that kernels reach.
        bound: What the expected time goes to: arithmetic or memory.
        launches: Kernels of the stage.
    """

    name: str
    floor_ms: float
    expected_ms: float
    bound: str
    launches: int


@dataclass(frozen=True)
class ChunkEstimate:
    """One chunk on one device.

    Attributes:
        device: Where.
        scheme: Name of the scheme.
        stages: In order; the last is the cost of all launches.
        weight_bytes: Weights, scales and embedding.
        cache_bytes: Keys and values.
        total_bytes: Those, the largest activations and a CUDA context.
        fused_ms: What a chunk would take whose products in 16 bits had our epilogues: what others' engines, whose
            kernels are fused, are compared with.
    """

    device: Device
    scheme: str
    stages: tuple[StageEstimate, ...]
    weight_bytes: int
    cache_bytes: int
    total_bytes: int
    fused_ms: float

    @property
    def floor_ms(self) -> float:
        """Of the chunk."""
        return sum(stage.floor_ms for stage in self.stages)

    @property
    def expected_ms(self) -> float:
        """Of the chunk."""
        return sum(stage.expected_ms for stage in self.stages)

    @property
    def stages_ms(self) -> dict[str, float]:
        """Stage of the network -> expected milliseconds, its launches among them: as a measurement of it would be."""
        launch_ms = self.device.reached["launch_us"].value * 1e-3
        return {stage.name: stage.expected_ms + stage.launches * launch_ms for stage in self.stages[:-1]}

    @property
    def fits(self) -> bool:
        """Whether the memory of the device holds it beside the operating system."""
        return self.total_bytes + SYSTEM_BYTES < USABLE * self.device.memory_gb * 1e9


def estimate(
    device: str | Device,
    model: str | Pi0Config = "pi0",
    scheme: str | Scheme = "orin",
    *,
    cameras: int = 2,
    tokens: int = 20,
    steps: int = 10,
) -> ChunkEstimate:
    """What a chunk costs on a device that is not here: modelled, not measured.

    Args:
        device: A device, or its key in `devices`, such as "orin-agx-64".
        model: Sizes of the network, or "pi0" or "pi05".
        scheme: How it is quantized: a scheme or its name.
        cameras: Cameras that deliver images, at least 1.
        tokens: Tokens of the prompt.
        steps: Euler steps.

    Raises:
        ConfigError: If device or model is not known, or the device cannot run the scheme.
        QuantizationError: If there is no scheme of this name.
    """
    if isinstance(model, str) and model not in PRESETS:
        raise ConfigError(f"model {model!r} is not known; expected one of {', '.join(PRESETS)}")
    config = PRESETS[model] if isinstance(model, str) else model
    found = find_device(device) if isinstance(device, str) else device
    chosen = find_scheme(scheme) if isinstance(scheme, str) else scheme
    return estimate_chunk(found, config, chosen, cameras, tokens, steps)


def estimate_chunk(
    device: Device, config: Pi0Config, scheme: Scheme, cameras: int, tokens: int, steps: int = 10
) -> ChunkEstimate:
    """Time and memory of one chunk.

    Args:
        device: From `find_device`.
        config: Sizes of the network.
        scheme: How it is quantized.
        cameras: That deliver images, at least 1.
        tokens: Of the prompt.
        steps: Of the Euler loop.

    Raises:
        ConfigError: If the device has no units for the scheme, or no kernels exist for it.
    """
    chunk = Chunk(config, scheme, cameras, tokens, steps)
    work = list(kernels(chunk))
    missing = {kernel.unit for kernel in work} - device.sheet.keys()
    if missing:
        raise ConfigError(f"{device.name} has no FP8 tensor cores for {scheme.name}; use fp8-w8a16 or orin")
    stages = [_stage(device, str(name), [kernel for kernel in work if kernel.stage == name]) for name in NETWORK]
    launches = sum(kernel.launches for kernel in work)
    fused = [kernel for kernel in work if not kernel.fusable]
    launching = StageEstimate(
        "launches", 0.0, launches * device.reached["launch_us"].value * 1e-3, "launches", launches
    )
    weights, cache = network_bytes(config, scheme), cache_bytes(chunk)
    activations = max(sum(kernel.activation_bytes) for kernel in work)
    stages = [stage for stage in stages if stage.launches]
    total = round(weights + cache + activations + CONTEXT_BYTES)
    launch_ms = device.reached["launch_us"].value * 1e-3
    fused_ms = sum(max(_arithmetic_ms(device, k), _memory_ms(device, k)) + k.launches * launch_ms for k in fused)
    return ChunkEstimate(device, scheme.name, (*stages, launching), weights, cache, total, fused_ms)


def _stage(device: Device, name: str, work: list[Kernel]) -> StageEstimate:
    arithmetic = sum(kernel.launches * kernel.operations / _per_ms(device.sheet[kernel.unit]) for kernel in work)
    memory = sum(kernel.launches * kernel.weight_bytes for kernel in work) / (device.sheet["gb_s"] * 1e6)
    times = [(_arithmetic_ms(device, kernel), _memory_ms(device, kernel)) for kernel in work]
    expected = sum(map(max, times))
    on_memory = sum(b for a, b in times if b > a)
    bound = "memory" if on_memory > expected / 2 else "arithmetic"
    return StageEstimate(name, max(arithmetic, memory), expected, bound, sum(kernel.launches for kernel in work))


def _arithmetic_ms(device: Device, kernel: Kernel) -> float:
    padded = _padded(kernel.rows, kernel.unit) / kernel.rows
    return kernel.launches * kernel.operations * padded / _per_ms(device.reached[kernel.unit].value)


def _memory_ms(device: Device, kernel: Kernel) -> float:
    """Half of the cache is taken to hold what the kernel before has just written."""
    spilled = sum(size for size in kernel.activation_bytes if size > device.l2_mb * 1e6 / 2)
    return kernel.launches * (kernel.weight_bytes + spilled) / (device.reached["gb_s"].value * 1e6)


def _padded(rows: int, unit: str) -> int:
    """Rows that tiles compute for `rows`."""
    if rows <= SMALL_TILE:
        return SMALL_TILE
    return min(math.ceil(rows / tile) * tile for tile in TILE_ROWS[unit])


def _per_ms(tera: float) -> float:
    return tera * 1e9
