"""Calibrates a policy on real observations: checks them first, then runs the network on each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pi0_edge.engine.reference import ReferenceEngine
from pi0_edge.errors import EngineError
from pi0_edge.policy import Policy
from pi0_edge.quantization.frame_checks import inspect_frames
from pi0_edge.quantization.observations import Frames
from quant.calibration import Calibration, CalibrationSource, collect

MINIMUM_FRAMES = 16

DEFAULT_FRAMES = 64


def calibrate(
    policy: Policy,
    frames: Frames,
    seed: int,
    interrupted: Path | None = None,
    on_frame: Callable[[int], object] = lambda done: None,
) -> Calibration:
    """Statistics of every linear of a policy.

    Args:
        policy: On the reference engine.
        frames: The calibration half of `split_frames`.
        seed: That of `split_frames`; it fixes the noise as well.
        interrupted: Where an interrupted run is kept, and found.
        on_frame: Told after every frame how many are done.

    Raises:
        EngineError: If it is on another engine, whose layers may be quantized already.
        DatasetError: If the frames are too few, black or identical.
        ObservationError: If one of them does not fit the policy.
        QuantizationError: If an activation is NaN or infinite, or the interrupted run was another one.
    """
    if not isinstance(policy.engine, ReferenceEngine):
        raise EngineError(f"a policy on the engine {policy.engine.name} cannot be calibrated; expected reference")
    found = inspect_frames(frames, policy.processor, MINIMUM_FRAMES)
    source = CalibrationSource(
        kind=frames.source.kind,
        path=frames.source.path,
        frames=found.frames,
        sha256=found.sha256,
        seed=seed,
        cameras=found.cameras,
        checkpoint_sha256=policy.checkpoint_sha256,
    )
    samples = map(policy.processor.to_model_inputs, frames)
    return collect(policy.engine.model, samples, policy.engine.times, source, interrupted, on_frame)
