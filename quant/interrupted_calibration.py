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
    if description["run"] != run:
        differing = [name for name, value in run.items() if description["run"].get(name) != value]
        raise QuantizationError(
            f"{path} holds a calibration with another {', '.join(differing)}; repeat its options to go on with it, "
            "or delete it to start again"
        )
    layers = {}
    for name, figures in description["layers"].items():
        amax, counts = tensors[f"{name}.channel_amax"], tensors[f"{name}.counts"]
        statistics = ActivationStatistics(figures["tokens"], amax, figures["octave"], counts)
        layers[name] = LayerRecord(statistics, tensors[f"{name}.step_amax"])
    return ActivationRecorder(steps, description["frames"], layers)
