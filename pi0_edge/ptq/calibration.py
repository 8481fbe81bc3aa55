"""Calibration: what enters every linear while the network answers real observations.

The network runs as it will on the robot: vision, prefix, state token and every Euler step, from noise that depends on
the seed and the number of the frame alone. Of each linear only maxima and a histogram are kept, so memory does not grow
with the number of frames, and an interrupted run goes on to the same result, bit for bit.

    source = CalibrationSource("lerobot v2.1", "demonstrations/", frames=64, sha256="...", seed=0)
    calibration = collect(model, samples, euler_times(10), source)
    calibration.save(Path("policy.calibration"))
    calibration.layers["prefix.layers.3.mlp.down"].channel_amax

MERGED: Tensors with a description in one safetensors file: the same bytes for the same content, complete or absent.

MERGED: The file in which an interrupted calibration waits: everything its recorder knows, and what it was running on.

MERGED: Calibrates a policy on real observations: checks them first, then runs the network on each.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pi0_edge.engine.reference import ReferenceEngine
from pi0_edge.errors import EngineError, QuantizationError
from pi0_edge.model import ModelInputs, Pi0, Pi0Config
from pi0_edge.policy import Policy
from pi0_edge.ptq.activation_recorder import ActivationRecorder, LayerRecord
from pi0_edge.ptq.frame_checks import inspect_frames
from pi0_edge.ptq.frames import Frames
from pi0_edge.quant.activation_statistics import ActivationStatistics

_DESCRIPTION = "description"
"""The only metadata entry: safetensors writes several in random order."""


def write_statistics(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Writes `path`, replacing what is there, through a temporary file beside it.

    Raises:
        QuantizationError: If the folder does not exist or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    text = json.dumps(description, separators=(",", ":"), allow_nan=False)
    try:
        # Copies, because layers that share an input share its statistics, which safetensors refuses to write.
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, temporary, {_DESCRIPTION: text})
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise QuantizationError(f"cannot write {path} ({error}); is there such a folder, and space?") from error


def read_statistics(path: Path, kind: str, version: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description of a file.

    Raises:
        QuantizationError: If it is missing, truncated or no file of this kind and version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {}).get(_DESCRIPTION, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, ValueError) as error:
        raise QuantizationError(f"{path} is not a readable {kind} ({error}); run `pi0-edge calibrate`") from error
    found = description.get("kind"), description.get("version")
    if found != (kind, version):
        raise QuantizationError(f"{path} holds {found[0]} {found[1]}, expected {kind} {version}; calibrate again")
    return tensors, description


INTERRUPTED_KIND = "interrupted calibration"
INTERRUPTED_VERSION = 1


def save_interrupted(path: Path, recorder: ActivationRecorder, run: Mapping[str, object]) -> None:
    """Keeps the frames that have ended, and `run`, which says what they were frames of."""
    tensors: dict[str, Tensor] = {}
    figures: dict[str, dict[str, int]] = {}
    for name, layer in recorder.layers.items():
        found = layer.statistics
        tensors[f"{name}.channel_amax"], tensors[f"{name}.counts"] = found.channel_amax, found.counts
        tensors[f"{name}.step_amax"] = layer.step_amax
        figures[name] = {"tokens": found.tokens, "octave": found.octave}
    kind = {"kind": INTERRUPTED_KIND, "version": INTERRUPTED_VERSION}
    description = {**kind, "frames": recorder.frames, "run": run, "layers": figures}
    write_statistics(path, tensors, description)


def load_interrupted(path: Path, steps: int, run: Mapping[str, object]) -> ActivationRecorder:
    """The recorder that `save_interrupted` kept.

    Raises:
        QuantizationError: If the file is damaged, or was kept by another run.
    """
    tensors, description = read_statistics(path, INTERRUPTED_KIND, INTERRUPTED_VERSION)
    try:
        kept = description["run"]
        differing = [name for name, value in run.items() if kept[name] != value]
        layers = {name: _record(name, tensors, figures) for name, figures in description["layers"].items()}
        recorder = ActivationRecorder(steps, description["frames"], layers)
    except (KeyError, TypeError) as error:
        raise QuantizationError(f"{path} is damaged ({error}); delete it to start again") from error
    if differing:
        raise QuantizationError(
            f"{path} holds a calibration with another {', '.join(differing)}; repeat its options to go on with it, "
            "or delete it to start again"
        )
    return recorder


def _record(name: str, tensors: Mapping[str, Tensor], figures: Mapping[str, int]) -> LayerRecord:
    amax, counts = tensors[f"{name}.channel_amax"], tensors[f"{name}.counts"]
    statistics = ActivationStatistics(figures["tokens"], amax, figures["octave"], counts)
    return LayerRecord(statistics, tensors[f"{name}.step_amax"])


PERCENTILE = 99.9
"""Of the magnitudes of all values that enter a layer; what a static scale may clip to."""

KIND = "calibration"
VERSION = 1
_KEEP_EVERY_S = 30.0


@dataclass(frozen=True)
class CalibrationSource:
    """Where a calibration comes from.

    Attributes:
        kind: Such as "lerobot v3.0", "recording", "npz" or "simulation".
        path: As the user gave it; empty for the simulation.
        frames: How many observations were used.
        sha256: Over all of them, see `pi0_edge.ptq`.
        seed: Of the choice of frames and of the noise.
        cameras: Those that the observations have.
        checkpoint_sha256: Of the policy that ran.
    """

    kind: str
    path: str
    frames: int
    sha256: str
    seed: int
    cameras: tuple[str, ...] = ()
    checkpoint_sha256: str = ""

    @property
    def name(self) -> str:
        """Kind and path."""
        return f"{self.kind} {self.path}".strip()

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON has."""
        return {**asdict(self), "cameras": list(self.cameras)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> CalibrationSource:
        """The inverse of `to_dict`."""
        return cls(**{**fields, "cameras": tuple(fields["cameras"])})


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """What entered one linear.

    Attributes:
        tokens: How many vectors of K channels.
        channel_amax: float32 [K], largest magnitude of each channel.
        amax: Largest magnitude of all.
        percentile: 99.9 % of all values are no larger; exact to one part in 128, rounded up.
        step_amax: float32 [steps], largest magnitude in each Euler step; None for layers outside the Euler loop.
    """

    tokens: int
    channel_amax: Tensor
    amax: float
    percentile: float
    step_amax: Tensor | None = None

    @property
    def outlier_ratio(self) -> float:
        """Largest magnitude over the median of the channels' largest magnitudes; channels that stay zero are padding.

        1 where all channels are alike.
        """
        used = self.channel_amax[self.channel_amax > 0]
        return self.amax / used.median().item() if len(used) else 1.0


@dataclass(frozen=True)
class Calibration:
    """A finished calibration.

    Attributes:
        layers: Statistics of every linear that ran, by module path, in the order in which the network runs them.
        source: Where they come from.
    """

    layers: Mapping[str, LayerStatistics]
    source: CalibrationSource

    def save(self, path: Path) -> None:
        """Writes one safetensors file, the same bytes for the same statistics; it appears complete or not at all.

        Raises:
            QuantizationError: If it cannot be written.
        """
        tensors: dict[str, Tensor] = {}
        figures: dict[str, dict[str, float]] = {}
        for name, layer in self.layers.items():
            tensors[f"{name}.channel_amax"] = layer.channel_amax
            if layer.step_amax is not None:
                tensors[f"{name}.step_amax"] = layer.step_amax
            figures[name] = {"tokens": layer.tokens, "amax": layer.amax, "percentile": layer.percentile}
        description = {"kind": KIND, "version": VERSION, "source": self.source.to_dict(), "layers": figures}
        write_statistics(path, tensors, description)

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Reads what `save` wrote.

        Raises:
            QuantizationError: If the file is missing, damaged or no calibration of this version.
        """
        tensors, description = read_statistics(path, KIND, VERSION)
        try:
            layers = {
                name: LayerStatistics(
                    channel_amax=tensors[f"{name}.channel_amax"], step_amax=tensors.get(f"{name}.step_amax"), **figures
                )
                for name, figures in description["layers"].items()
            }
            return cls(layers, CalibrationSource.from_dict(description["source"]))
        except (KeyError, TypeError) as error:
            raise QuantizationError(f"{path} is damaged ({error}); calibrate again") from error


def collect(
    model: Pi0,
    samples: Iterable[ModelInputs],
    times: Tensor,
    source: CalibrationSource,
    partial: Path | None = None,
    on_frame: Callable[[int], object] = lambda done: None,
) -> Calibration:
    """Runs the network on every sample and keeps statistics of what enters its linears.

    Args:
        model: In fp32 or under the bf16 policy; statistics are float32 either way. It is not changed.
        samples: `source.frames` observations, one at a time; those that an interrupted run has seen are skipped.
        times: float32 [steps] from `flow.euler_times`.
        source: What the samples are; its seed fixes the noise of each frame.
        partial: Where an interrupted run is kept. One that is there already goes on; it is removed at the end.
        on_frame: Told after every frame how many are done, those of the interrupted run included.

    Raises:
        QuantizationError: If an activation is NaN or infinite, naming the layer; if there are not `source.frames`
            samples; or if the run in `partial` was another one.
    """
    run = {**source.to_dict(), "steps": len(times), "dtype": str(model.residual_dtype)}
    recorder = ActivationRecorder(len(times))
    if partial is not None and partial.exists():
        recorder = load_interrupted(partial, len(times), run)

    def keep() -> float:
        if partial is not None and recorder.frames:
            save_interrupted(partial, recorder, run)
        return time.monotonic()

    kept = time.monotonic()
    try:
        with torch.no_grad(), recorder.listening(model):
            for sample in islice(samples, recorder.frames, None):
                noise = frame_noise(model.config, source.seed, recorder.frames)
                recorder.start_frame()
                model.sample_actions(sample, noise.to(sample.state.device), times)
                recorder.end_frame()
                on_frame(recorder.frames)
                if time.monotonic() - kept > _KEEP_EVERY_S:
                    kept = keep()
    except BaseException:  # Ctrl-C as well as a source that fails
        keep()
        raise
    if recorder.frames != source.frames or not recorder.frames:
        raise QuantizationError(f"the {source.name} gave {recorder.frames} frames, expected {source.frames}")
    if partial is not None:
        partial.unlink(missing_ok=True)
    return Calibration({path: _summary(record) for path, record in recorder.layers.items()}, source)


def frame_noise(config: Pi0Config, seed: int, frame: int) -> Tensor:
    """Initial noise of one frame, float32 [1, horizon, action_dim]; the same on every machine."""
    rng = np.random.default_rng((seed, frame))
    return torch.from_numpy(rng.standard_normal((1, config.horizon, config.action_dim), dtype=np.float32))


def _summary(record: LayerRecord) -> LayerStatistics:
    found = record.statistics
    step_amax = record.step_amax if record.step_amax.any() else None
    return LayerStatistics(found.tokens, found.channel_amax, found.amax, found.percentile(PERCENTILE), step_amax)


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
    if type(policy.engine) is not ReferenceEngine:
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
