"""Estimates beside measurements: what a stage was expected to take, and what a measurement says of other policies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pi0_edge.bench.result import BenchResult, PolicyUnderTest, parse_result
from pi0_edge.errors import BenchError, ConfigError, QuantizationError
from pi0_edge.estimation.calibration import CalibratedEstimate, Calibration, calibrate
from pi0_edge.estimation.chunk import ChunkEstimate, estimate, estimate_chunk
from pi0_edge.estimation.devices import Device, devices, find_board
from pi0_edge.json_files import read_json_object
from pi0_edge.latency.stages import NETWORK, Boundary, Stage
from pi0_edge.model import Pi0Config
from pi0_edge.quant.schemes import Scheme, find_scheme

ESTIMATED_ENGINE = "cuda"
"""The engine whose kernels `pi0_edge.estimation` counts: no other is compared with them."""


def expected_stages(model: str, policy: PolicyUnderTest, config: Pi0Config) -> dict[str, float]:
    """What `pi0-edge estimate` expects of each stage of the network, in milliseconds, launches among them.

    Args:
        model: Of the computer, as `BoardState.model` says it.
        policy: What is measured.
        config: Sizes of its network.

    Returns:
        Stage -> milliseconds; empty where the device is not known, or the estimate is not of such an engine or scheme.
    """
    device = find_board(model)
    if device is None or policy.engine != ESTIMATED_ENGINE:
        return {}
    try:
        scheme = find_scheme(policy.scheme)
        return estimate_chunk(device, config, scheme, policy.cameras, policy.tokens, policy.euler_steps).stages_ms
    except (ConfigError, QuantizationError):
        return {}


@dataclass(frozen=True)
class EstimateFrom:
    """An estimate that rests on a measurement on the device.

    Attributes:
        device: That was measured.
        uncalibrated: The same estimate from data sheets alone.
        calibration: Stage -> how many times longer than expected it was measured to take.
        calibrated: The estimate.
        rests_on: What it rests on and how far it reaches, one sentence each.
    """

    device: Device
    uncalibrated: ChunkEstimate
    calibration: Calibration
    calibrated: CalibratedEstimate
    rests_on: tuple[str, ...]


def estimate_from(
    result: BenchResult,
    model: str | Pi0Config = "pi0",
    scheme: str | Scheme = "orin",
    *,
    cameras: int = 2,
    tokens: int = 20,
    steps: int = 10,
) -> EstimateFrom:
    """What another policy would take on the device that a result was measured on.

    Args:
        result: Valid, of a device that is known, and with an estimate beside it.
        model: Sizes of the other policy's network, or "pi0" or "pi05".
        scheme: How that is quantized: a scheme or its name.
        cameras: Cameras that deliver images, at least 1.
        tokens: Tokens of the prompt.
        steps: Euler steps.

    Raises:
        BenchError: If the result does not say enough.
        ConfigError: If the model is not known, or the device cannot run the scheme.
        QuantizationError: If there is no scheme of this name.
    """
    if not result.verdict.valid:
        raise BenchError(f"the result {result.id} is void ({'; '.join(result.verdict.reasons)}); bench again")
    state = result.readings[0].state if result.readings else None
    device = None if state is None else find_board(state.model)
    if device is None or state is None or not result.estimate_ms:
        where = "a computer that does not say its model" if state is None or not state.model else state.model
        known = ", ".join(one.key for one in devices().values() if one.boards)
        raise BenchError(
            f"the result {result.id} is of {where} with the engine {result.policy.engine}, and has no estimate beside "
            f"it; expected the engine {ESTIMATED_ENGINE} on one of {known}"
        )
    stages_ms, network_ms = _measured(result)
    try:
        calibration = calibrate(result.estimate_ms, stages_ms, network_ms)
    except ConfigError as error:
        raise BenchError(f"the result {result.id} calibrates nothing: {error}; bench again") from error
    uncalibrated = estimate(device, model, scheme, cameras=cameras, tokens=tokens, steps=steps)
    rests_on = tuple(_sentences(result, calibration, uncalibrated.scheme, f"{state.model}, {state.power_mode}"))
    return EstimateFrom(device, uncalibrated, calibration, calibration.of(uncalibrated), rests_on)


def read_measured(path: Path) -> BenchResult:
    """The result in a file that `pi0-edge bench` wrote: the result itself, or a receipt with its samples.

    Raises:
        BenchError: If it holds none.
    """
    read = read_json_object(path, BenchError, "give the result or the receipt that `pi0-edge bench` wrote")
    inner = read.get("result")
    if not isinstance(inner, dict):
        return parse_result(read, str(path))
    runs = inner.get("runs")
    if isinstance(runs, list) and not all(isinstance(run, dict) and "samples" in run for run in runs):
        raise BenchError(f"{path} is a receipt without samples; give the .json of the result")
    return parse_result(inner, str(path))


def _measured(result: BenchResult) -> tuple[dict[str, float], float]:
    """Medians of the stages of the network that were measured apart, and that of the network as a whole.

    The closed run is taken where there is one: in it, a chunk never waits for the one before.
    """
    run = result.run("closed") or result.run("paced")
    if run is None or not len(run.samples):
        raise BenchError(f"the result {result.id} has no samples: give the .json with them, or bench again")
    samples = run.samples
    known = {name: values[np.isfinite(values)] for name, values in samples.stages_ms.items()}
    medians = {name: float(np.median(values)) for name, values in known.items() if values.size and name in set(Stage)}
    network = {str(name): medians[name] for name in NETWORK if name in medians}
    if set(network) >= set(result.estimate_ms):
        return network, sum(network.values())
    if result.boundary not in (Boundary.ENGINE, Boundary.POLICY):
        raise BenchError(
            f"the result {result.id} is of the boundary {result.boundary} and does not say what the network took; "
            "bench with --boundary engine or policy"
        )
    took_ms = float(np.median((samples.end_ns - samples.begin_ns).astype(np.float64))) * 1e-6
    return network, took_ms - sum(value for name, value in medians.items() if name not in network)


def _sentences(result: BenchResult, calibration: Calibration, scheme: str, computer: str) -> list[str]:
    policy = result.policy
    found = [
        f"measured: {result.id}, {result.started}, {computer}, engine {policy.engine}, {policy.scheme}, "
        f"{policy.cameras} cameras, {policy.tokens} tokens, {policy.euler_steps} steps",
        "it holds for this computer in this power mode, and for the engine that was measured",
    ]
    if calibration.shared:
        found.append(f"{', '.join(calibration.shared)} were not measured apart: one ratio stands for them")
    if scheme != policy.scheme:
        found.append(f"{scheme} was not measured: a ratio does not tell arithmetic from memory, so take the range")
    return found
