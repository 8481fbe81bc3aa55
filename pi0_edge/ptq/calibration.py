"""Calibration: what enters every linear while the network answers real observations.

The network runs as it will on the robot: vision, prefix, state token and every Euler step, from noise that depends on
the seed and the number of the frame alone. Of each linear only maxima and a histogram are kept, so memory does not grow
with the number of frames, and an interrupted run goes on to the same result, bit for bit.

    calibration = calibrate("checkpoint", "demonstrations/")
    calibration.save("policy.calibration")

`calibrate` reads checkpoint and frames; `calibrate_policy` takes a loaded policy and chosen frames; `collect` takes a
bare network and its inputs.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pi0_edge.engine.reference import ReferenceEngine
from pi0_edge.errors import ConfigError, DatasetError, EngineError, QuantizationError
from pi0_edge.model import ModelInputs, Pi0Config, PolicyNetwork
from pi0_edge.policy import Policy
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.ptq.activation_recorder import ActivationRecorder, LayerRecord
from pi0_edge.ptq.calibration_file import (
    Calibration,
    CalibrationSource,
    LayerStatistics,
    load_interrupted,
    save_interrupted,
)
from pi0_edge.ptq.frame_checks import UnfitFrames, inspect_frames
from pi0_edge.ptq.frames import Frames, ObservationSource, split_frames
from pi0_edge.ptq.sources import open_frames
from pi0_edge.ptq.training_episodes import training_profile_of
from pi0_edge.training_profile import LEAST_EPISODES

PERCENTILE = 99.9
"""Of the magnitudes of all values that enter a layer; what a static scale may clip to."""
MINIMUM_FRAMES = 16
_KEEP_EVERY_S = 30.0


def calibrate(
    checkpoint: str | Path,
    frames: str | Path | ObservationSource | None = None,
    *,
    robot: str | Path | None = None,
    tokenizer: str | Path | None = None,
    sizes: Mapping[str, object] | None = None,
    norm_stats: str | Path | None = None,
    calibration_frames: int = 64,
    seed: int = 0,
    resume_path: str | Path | None = None,
    resume: bool = False,
    skip_unfit: int = 0,
    require_training_profile: bool = False,
    on_progress: ProgressCallback | None = None,
) -> Calibration:
    """Runs a policy in fp32 on real observations and collects statistics of what enters its linears.

    Where `frames` are training data, their profile is collected too, for the mismatch guard.

    Args:
        checkpoint: File or folder, see `pi0_edge.checkpoints`.
        frames: LeRobotDataset, recording of `pi0-edge serve --record`, or .npz file; or a source that is open. None
            takes the simulated task of the policy. Half of the episodes are used; the other half stays for the gate.
        robot: Robot layout by name or .yaml, where the checkpoint names none.
        tokenizer: Tokenizer file, where the checkpoint holds none.
        sizes: Sizes and settings that the checkpoint does not tell.
        norm_stats: A norm_stats.json, instead of the statistics of the checkpoint.
        calibration_frames: How many observations to use at most; at least 16 are needed.
        seed: Fixes the choice of episodes and frames, and the noise.
        resume_path: File that keeps an interrupted run. It is removed at the end. None keeps nothing.
        resume: Whether to go on with the run in `resume_path`.
        skip_unfit: How many frames may be left out that do not fit the policy or are damaged; those that are stand in
            the calibration.
        require_training_profile: Whether frames that are no training data are refused, unless a profile lies beside the
            checkpoint.
        on_progress: Is called after every frame.

    Raises:
        CheckpointError: If the checkpoint does not load.
        ConfigError: If there is an interrupted run and `resume` is False, or none and it is True; or if robot,
            tokenizer or a size is missing.
        DatasetError: If the frames are too few, black or identical, more than `skip_unfit` are unfit, or a training
            profile is required and there is none.
        ObservationError: If one of them does not fit the policy and `skip_unfit` is 0.
        QuantizationError: If an activation is NaN or infinite, or the interrupted run was another one.
    """
    resume_path = None if resume_path is None else Path(resume_path)
    _check_resume(resume_path, resume)
    policy = Policy.load(
        Path(checkpoint),
        "reference",
        robot=None if robot is None else str(robot),
        tokenizer=None if tokenizer is None else Path(tokenizer),
        sizes=sizes,
        norm_stats=norm_stats,
    )
    source = open_frames(frames, policy, calibration_frames, on_progress)
    chosen = split_frames(source, calibration_frames, 0, seed).calibration
    profile = training_profile_of(checkpoint, source, policy.processor.robot, on_progress)
    if require_training_profile and profile is None:
        raise DatasetError(
            f"{source.kind} {source.path}".strip() + " is no training data, of which there could be a profile; give a "
            f"LeRobotDataset of at least {LEAST_EPISODES} episodes"
        )
    calibration = calibrate_policy(policy, chosen, seed, resume_path, on_progress, UnfitFrames(skip_unfit))
    return dataclasses.replace(calibration, training_profile=profile)


def _check_resume(resume_path: Path | None, resume: bool) -> None:
    waiting = resume_path is not None and resume_path.exists()
    if waiting and not resume:
        raise ConfigError(f"{resume_path} holds an interrupted calibration; go on with resume=True, or delete it")
    if resume and not waiting:
        raise ConfigError(f"resume_path {resume_path}: there is no interrupted calibration; leave resume out to start")


def calibrate_policy(
    policy: Policy,
    frames: Frames,
    seed: int,
    resume_path: Path | None = None,
    on_progress: ProgressCallback | None = None,
    unfit: UnfitFrames | None = None,
) -> Calibration:
    """Checks the frames, then collects statistics of every linear of a policy.

    Args:
        policy: On the reference engine.
        frames: The calibration half of `split_frames`.
        seed: That of `split_frames`; it fixes the noise as well.
        resume_path: File that keeps an interrupted run. One that is there already goes on.
        on_progress: Is called after every frame.
        unfit: Takes frames that do not fit the policy or are damaged; None allows none.

    Raises:
        EngineError: If it is on another engine, whose layers may be quantized already.
        DatasetError: If the frames are too few, black or identical, or too many are unfit.
        ObservationError: If one of them does not fit the policy, and none may be left out.
        QuantizationError: If an activation is NaN or infinite, or the interrupted run was another one.
    """
    model = torch_model(policy)
    found = inspect_frames(frames, policy.processor, MINIMUM_FRAMES, unfit)
    robot = policy.processor.robot
    recorded = {robot.camera(name) for name in found.cameras}
    source = CalibrationSource(
        kind=frames.source.kind,
        path=frames.source.path,
        frames=found.frames,
        sha256=found.sha256,
        seed=seed,
        cameras=found.cameras,
        checkpoint_sha256=policy.checkpoint_sha256,
        missing_cameras=tuple(camera for camera in robot.cameras if camera not in recorded),
        left_out=found.left_out,
    )
    samples = map(policy.processor.to_model_inputs, found.fit)
    return collect(model, samples, policy.engine.times, source, resume_path, on_progress)


def torch_model(policy: Policy) -> PolicyNetwork:
    """The fp32 network of a policy.

    Raises:
        EngineError: If it is on another engine than the reference, whose layers may be quantized already.
    """
    if type(policy.engine) is not ReferenceEngine:
        raise EngineError(f"a policy on the engine {policy.engine.name} cannot be calibrated; expected reference")
    return policy.engine.model


def collect(
    model: PolicyNetwork,
    samples: Iterable[ModelInputs],
    times: Tensor,
    source: CalibrationSource,
    resume_path: Path | None = None,
    on_progress: ProgressCallback | None = None,
) -> Calibration:
    """Runs the network on every sample and keeps statistics of what enters its linears.

    Args:
        model: In fp32 or under the bf16 policy; statistics are float32 either way. It is not changed.
        samples: `source.frames` observations, one at a time; those of an interrupted run are skipped.
        times: float32 [steps] from `flow.euler_times`.
        source: What the samples are; its seed fixes the noise of each frame.
        resume_path: File that keeps an interrupted run. One that is there already goes on; it is removed at the end.
        on_progress: Is called after every frame; those of the interrupted run count.

    Raises:
        QuantizationError: If an activation is NaN or infinite, naming the layer; if there are not `source.frames`
            samples; or if the run in `resume_path` was another one.
    """
    run = {**source.to_dict(), "steps": len(times), "dtype": str(model.residual_dtype)}
    recorder = ActivationRecorder(len(times))
    if resume_path is not None and resume_path.exists():
        recorder = load_interrupted(resume_path, len(times), run)

    def keep() -> float:
        if resume_path is not None and recorder.frames:
            save_interrupted(resume_path, recorder, run)
        return time.monotonic()

    kept = time.monotonic()
    stage = Stage("calibrating", source.frames, on_progress)
    try:
        with torch.no_grad(), recorder.recording(model):
            for sample in islice(samples, recorder.frames, None):
                noise = frame_noise(model.config, source.seed, recorder.frames)
                recorder.start_frame()
                model.sample_actions(sample, noise.to(sample.state.device), times)
                recorder.end_frame()
                stage.set(recorder.frames)
                if time.monotonic() - kept > _KEEP_EVERY_S:
                    kept = keep()
    except BaseException:  # Ctrl-C as well as a source that fails
        keep()
        raise
    if recorder.frames != source.frames or not recorder.frames:
        raise QuantizationError(f"the {source.name} gave {recorder.frames} frames, expected {source.frames}")
    if resume_path is not None:
        resume_path.unlink(missing_ok=True)
    return Calibration({path: _summary(record) for path, record in recorder.layers.items()}, source)


def frame_noise(config: Pi0Config, seed: int, frame: int) -> Tensor:
    """Initial noise of one frame, float32 [1, horizon, action_dim]; the same on every machine."""
    rng = np.random.default_rng((seed, frame))
    return torch.from_numpy(rng.standard_normal((1, config.horizon, config.action_dim), dtype=np.float32))


def _summary(record: LayerRecord) -> LayerStatistics:
    found = record.statistics
    step_amax = record.step_amax if record.step_amax.any() else None
    return LayerStatistics(found.tokens, found.channel_amax, found.amax, found.percentile(PERCENTILE), step_amax)
