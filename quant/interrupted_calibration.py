"""The file in which an interrupted calibration waits: everything its recorder knows, and what it was running on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from quant.activation_recorder import ActivationRecorder, LayerRecord
from quant.activation_statistics import ActivationStatistics
from quant.errors import QuantizationError
from quant.statistics_files import read_statistics, write_statistics

KIND = "interrupted calibration"
VERSION = 1


def save_interrupted(path: Path, recorder: ActivationRecorder, run: Mapping[str, object]) -> None:
    """Keeps the frames that have ended, and `run`, which says what they were frames of."""
    tensors: dict[str, Tensor] = {}
    figures: dict[str, dict[str, int]] = {}
    for name, layer in recorder.layers.items():
        found = layer.statistics
        tensors[f"{name}.channel_amax"], tensors[f"{name}.counts"] = found.channel_amax, found.counts
        tensors[f"{name}.step_amax"] = layer.step_amax
        figures[name] = {"tokens": found.tokens, "octave": found.octave}
    description = {"kind": KIND, "version": VERSION, "frames": recorder.frames, "run": run, "layers": figures}
    write_statistics(path, tensors, description)


def load_interrupted(path: Path, steps: int, run: Mapping[str, object]) -> ActivationRecorder:
    """The recorder that `save_interrupted` kept.

    Raises:
        QuantizationError: If the file is damaged, or was kept by another run.
    """
    tensors, description = read_statistics(path, KIND, VERSION)
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
