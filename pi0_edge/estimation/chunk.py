"""The time and memory of one chunk: work of each kernel, divided by what the device can do.

Floor: per stage the larger of operations at the data sheet's rate and weights at the data sheet's bandwidth. Nothing
can be faster. Expected: the sum of the times of its kernels (`kernel_times`), with a low and a high beside it by what
each of them rests on. None of it was measured on this software.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from pi0_edge.errors import ConfigError
from pi0_edge.estimation.devices import KERNELS_SHARED_KB, Device, find_device
from pi0_edge.estimation.kernel_times import SPREADS, Basis, kernel_time
from pi0_edge.estimation.work import Chunk, Kernel, cache_bytes, kernels, network_bytes
from pi0_edge.latency.stages import NETWORK, Stage
from pi0_edge.model import PRESETS, Pi0Config
from pi0_edge.quant.schemes import Scheme, find_scheme

CONTEXT_BYTES = 0.5e9
"""Of a CUDA context with the libraries it loads; torch's own are not in it. Modelled."""
USABLE, SYSTEM_BYTES = 0.92, 1e9
"""A Jetson with 8 GB shows 7.4 of them, and its system takes 1 GB without a screen."""


@dataclass(frozen=True)
class StageEstimate:
    """One stage of the chunk.

    Attributes:
        name: A stage of `pi0_edge.latency.stages.NETWORK`.
        floor_ms: From the data sheet.
        rests_on: What its time rests on -> milliseconds of it.
        bound: What most of the time goes to: arithmetic, memory or launches.
        launches: Kernels of the stage.
    """

    name: str
    floor_ms: float
    rests_on: Mapping[Basis, float]
    bound: str
    launches: int

    @property
    def expected_ms(self) -> float:
        """Of the stage, launches among it: as a measurement of it would be."""
        return sum(self.rests_on.values())

    @property
    def low_ms(self) -> float:
        """If all that it rests on errs to the good side."""
        return sum(value * SPREADS[basis][0] for basis, value in self.rests_on.items())

    @property
    def high_ms(self) -> float:
        """If all that it rests on errs to the bad side."""
        return sum(value * SPREADS[basis][1] for basis, value in self.rests_on.items())


@dataclass(frozen=True)
class ChunkEstimate:
    """One chunk on one device.

    Attributes:
        device: Where.
        scheme: Name of the scheme.
        stages: In order.
        weight_bytes: Weights, scales and embedding.
        cache_bytes: Keys and values.
        total_bytes: Those, the largest activations and a CUDA context.
        fused_ms: What a chunk would take whose products in 16 bits had our epilogues: what others' engines, whose
            kernels are fused, are compared with.
        stale_prefix_ms: What a chunk takes that is planned on an older prefix (`serve --stale-prefix`): the state, the
            Euler loop, and a copy of keys and values; None for π0.5, which has the state in its prompt.
        unbuilt: What the engine has no kernels for, of what was estimated as if it had; empty otherwise.
    """

    device: Device
    scheme: str
    stages: tuple[StageEstimate, ...]
    weight_bytes: int
    cache_bytes: int
    total_bytes: int
    fused_ms: float
    stale_prefix_ms: float | None
    unbuilt: str

    @property
    def floor_ms(self) -> float:
        """Of the chunk."""
        return sum(stage.floor_ms for stage in self.stages)

    @property
    def low_ms(self) -> float:
        """Of the chunk."""
        return sum(stage.low_ms for stage in self.stages)

    @property
    def expected_ms(self) -> float:
        """Of the chunk."""
        return sum(stage.expected_ms for stage in self.stages)

    @property
    def high_ms(self) -> float:
        """Of the chunk."""
        return sum(stage.high_ms for stage in self.stages)

    @property
    def launches(self) -> int:
        """Of the chunk."""
        return sum(stage.launches for stage in self.stages)

    @property
    def rests_on(self) -> dict[Basis, float]:
        """What the chunk's time rests on -> milliseconds of it."""
        total: defaultdict[Basis, float] = defaultdict(float)
        for stage in self.stages:
            for basis, milliseconds in stage.rests_on.items():
                total[basis] += milliseconds
        return dict(total)

    @property
    def stages_ms(self) -> dict[str, float]:
        """Stage of the network -> expected milliseconds."""
        return {stage.name: stage.expected_ms for stage in self.stages}

    @property
    def fits(self) -> bool:
        """Whether the memory of the device holds it beside the operating system."""
        return self.total_bytes + SYSTEM_BYTES < USABLE * self.device.memory_gb * 1e9


def check_runs(device: Device) -> None:
    """Returns if the CUDA engine runs on a device.

    Raises:
        ConfigError: If its kernels need more shared memory than a block gets there.
    """
    if not device.runs_kernels:
        raise ConfigError(
            f"the CUDA engine does not run on {device.name}: a block of its kernels needs {KERNELS_SHARED_KB} KB of "
            f"shared memory, and this GPU gives it {device.shared_kb} KB, as every GeForce RTX 30, 40 and 50; choose "
            "another device"
        )


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
        ConfigError: If device or model is not known, or the device cannot run the scheme or the engine.
        QuantizationError: If there is no scheme of this name.
    """
    if isinstance(model, str) and model not in PRESETS:
        raise ConfigError(f"model {model!r} is not known; expected one of {', '.join(PRESETS)}")
    config = PRESETS[model] if isinstance(model, str) else model
    found = find_device(device) if isinstance(device, str) else device
    check_runs(found)
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
    chunk = Chunk(config, scheme, cameras, tokens, steps, device.l2_bytes)
    work = list(kernels(chunk))
    _check_units(device, scheme, work)
    stages = [_stage(device, str(name), [kernel for kernel in work if kernel.stage == name]) for name in NETWORK]
    weights, cache = network_bytes(config, scheme), cache_bytes(chunk)
    activations = max(sum(kernel.activation_bytes) for kernel in work)
    fused = _stage(device, "chunk", [kernel for kernel in work if not kernel.fusable])
    return ChunkEstimate(
        device,
        scheme.name,
        tuple(stage for stage in stages if stage.launches),
        weights,
        cache,
        round(weights + cache + activations + CONTEXT_BYTES),
        fused.expected_ms,
        _stale_prefix_ms(chunk, device, stages, cache),
        _unbuilt(scheme),
    )


def _check_units(device: Device, scheme: Scheme, work: list[Kernel]) -> None:
    missing = {kernel.unit for kernel in work} - device.sheet.keys()
    if "fp8" in missing:
        raise ConfigError(f"{device.name} has no FP8 tensor cores for {scheme.name}; use fp8-w8a16 or orin")
    if "int4" in missing:
        raise ConfigError(f"{device.name} has no INT4 tensor cores for {scheme.name}; use orin or orin-expert4")


def _unbuilt(scheme: Scheme) -> str:
    if any(rule.weights.kind == "int4" for rule in scheme.rules):
        return "no kernel of this engine multiplies INT4 yet: the figures are of one like that for INT8"
    return ""


def _stale_prefix_ms(chunk: Chunk, device: Device, stages: list[StageEstimate], cache: int) -> float | None:
    if chunk.config.variant != "pi0":
        return None
    after = sum(stage.expected_ms for stage in stages if stage.name in (Stage.STATE, Stage.EULER))
    return after + 2 * cache / (device.reached["gb_s"].value * 1e6)  # read and written


def _stage(device: Device, name: str, work: list[Kernel]) -> StageEstimate:
    arithmetic = sum(kernel.launches * kernel.operations / (device.sheet[kernel.unit] * 1e9) for kernel in work)
    memory = sum(kernel.launches * kernel.weight_bytes for kernel in work) / (device.sheet["gb_s"] * 1e6)
    rests_on: defaultdict[Basis, float] = defaultdict(float)
    bounds: defaultdict[str, float] = defaultdict(float)
    for kernel in work:
        time = kernel_time(kernel, device)
        for basis, milliseconds in time.parts:
            rests_on[basis] += kernel.launches * milliseconds
        bounds["memory" if time.on_memory else "arithmetic"] += kernel.launches * time.body_ms
        bounds["launches"] += kernel.launches * time.start_ms
    bound = max(bounds, key=lambda each: bounds[each]) if bounds else "arithmetic"
    return StageEstimate(name, max(arithmetic, memory), dict(rests_on), bound, sum(kernel.launches for kernel in work))
