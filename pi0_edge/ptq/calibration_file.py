"""A calibration as data and as a file: what entered every linear of a network, and where those statistics come from.

    calibration = Calibration.load("policy.calibration")
    calibration.layers["prefix.layers.3.mlp.down"].channel_amax

One safetensors file holds the tensors and one description: the same bytes for the same statistics, and the file is
complete or absent. An interrupted calibration keeps all that its recorder knows in a file of the same form, together
with a description of the run, which a resumed run must repeat.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pi0_edge.errors import ConfigError
from pi0_edge.ptq.activation_recorder import ActivationRecorder, LayerRecord
from pi0_edge.quant import QuantizationError
from pi0_edge.quant.activation_statistics import ActivationStatistics
from pi0_edge.synced_files import replace_synced
from pi0_edge.training_profile import TrainingProfile

KIND = "calibration"
VERSION = 1
INTERRUPTED_KIND = "interrupted calibration"
INTERRUPTED_VERSION = 1
_DESCRIPTION = "description"
"""The only metadata entry: safetensors writes several in random order."""


@dataclass(frozen=True)
class CalibrationSource:
    """Where a calibration comes from.

    Attributes:
        kind: Such as "lerobot v3.0", "recording", "npz" or "simulation".
        path: As the user gave it; empty for the simulation.
        frames: How many observations were used.
        sha256: Over all of them, see `pi0_edge.ptq.frame_checks`.
        seed: Fixes the choice of frames and the noise.
        cameras: Cameras of the observations.
        checkpoint_sha256: Of the policy that ran.
        missing_cameras: Cameras of the robot that the observations lack.
        left_out: Frames that were not used, each with its place and what is wrong with it.
    """

    kind: str
    path: str
    frames: int
    sha256: str
    seed: int
    cameras: tuple[str, ...] = ()
    checkpoint_sha256: str = ""
    missing_cameras: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Kind and path."""
        return f"{self.kind} {self.path}".strip()

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON has."""
        fields = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> CalibrationSource:
        """The inverse of `to_dict`."""
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return cls(**{**fields, **lists})


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
        training_profile: What the training data looked like; None where no training data were given.
    """

    layers: Mapping[str, LayerStatistics]
    source: CalibrationSource
    training_profile: TrainingProfile | None = None

    def save(self, path: str | Path) -> None:
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
        if self.training_profile is not None:
            description["training_profile"] = self.training_profile.to_dict()
        write_statistics(Path(path), tensors, description)

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Reads what `save` wrote.

        Raises:
            QuantizationError: If the file is missing, damaged or no calibration of this version.
        """
        tensors, description = read_statistics(Path(path), KIND, VERSION)
        try:
            layers = {
                name: LayerStatistics(
                    channel_amax=tensors[f"{name}.channel_amax"], step_amax=tensors.get(f"{name}.step_amax"), **figures
                )
                for name, figures in description["layers"].items()
            }
            found = description.get("training_profile")
            profile = None if found is None else TrainingProfile.from_dict(found, "its training profile")
            return cls(layers, CalibrationSource.from_dict(description["source"]), profile)
        except (KeyError, TypeError, AttributeError, ConfigError) as error:
            raise QuantizationError(f"{path} is damaged ({error}); calibrate again") from error


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
        replace_synced(temporary, path)
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
