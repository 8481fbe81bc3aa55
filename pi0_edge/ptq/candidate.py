"""A checkpoint, quantized: the engine that will be judged, and the tensors that a bundle of it will hold.

An engine packs its weights for this machine and discards the tensors it packed. Here they are kept, so that the network
that was judged is the network in the bundle: an INT8 network is in memory twice, which is half of what the fp32
reference took before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.engine import parameter_shapes
from pi0_edge.engine.cpu import CpuEngine
from pi0_edge.engine.loading import blank_model, fill_model
from pi0_edge.errors import ConfigError
from pi0_edge.policy import Policy, combined_hash
from pi0_edge.processing import load_processor
from pi0_edge.processing.settings import settings_in
from pi0_edge.ptq.calibration_file import Calibration
from pi0_edge.quant import QuantizationReport, Scheme


@dataclass(frozen=True)
class Candidate:
    """A quantized policy.

    Attributes:
        policy: On the CPU engine, ready to infer.
        scheme: How it was quantized.
        report: Sizes and errors of the quantized layers.
        state: The quantized network's tensors by name, as a bundle stores them.
    """

    policy: Policy
    scheme: Scheme
    report: QuantizationReport
    state: Mapping[str, Tensor]


def quantize_checkpoint(
    checkpoint: str | Path,
    scheme: Scheme,
    calibration: Calibration | None = None,
    *,
    input_products: Mapping[str, Tensor] | None = None,
    robot: str | Path | None = None,
    tokenizer: str | Path | None = None,
    sizes: Mapping[str, object] | None = None,
    norm_stats: str | Path | None = None,
) -> Candidate:
    """Reads a checkpoint and quantizes each layer as it comes.

    Args:
        checkpoint: File or folder, see `pi0_edge.checkpoints`.
        scheme: How to quantize it.
        calibration: Of this checkpoint; needed where the scheme needs one.
        input_products: Of this checkpoint, from `pi0_edge.ptq.input_products`; needed where the scheme rounds by GPTQ.
        robot: Robot layout, where the checkpoint names none.
        tokenizer: Where the checkpoint holds none.
        sizes: Sizes and settings that the checkpoint does not tell.
        norm_stats: A norm_stats.json, instead of the statistics of the checkpoint.

    Raises:
        CheckpointError: If the checkpoint does not load.
        ConfigError: If the calibration is of another checkpoint, or robot, tokenizer or a size is missing.
        QuantizationError: If calibration is missing, or a weight is NaN or infinite.
    """
    opened = open_checkpoint(Path(checkpoint))
    config = opened.infer_config(sizes)
    processor = load_processor(opened.folder, config, robot, tokenizer, norm_stats, settings=settings_in(sizes))
    shapes = parameter_shapes(config)
    opened.check(shapes)
    sha256 = combined_hash(opened.source_hashes())
    check_calibration(calibration, checkpoint, sha256)
    model = blank_model(config, scheme)
    report = fill_model(model, opened.tensors(shapes), scheme, channel_amax(calibration), input_products)
    state = dict(model.state_dict())
    return Candidate(Policy(CpuEngine(model, scheme), processor, sha256), scheme, report, state)


def check_calibration(calibration: Calibration | None, checkpoint: str | Path, sha256: str) -> None:
    """Raises `ConfigError` where a calibration is of another checkpoint than the one with this hash."""
    if calibration is not None and calibration.source.checkpoint_sha256 not in ("", sha256):
        raise ConfigError(
            f"the calibration is of the checkpoint {calibration.source.checkpoint_sha256[:12]}, "
            f"but {checkpoint} is {sha256[:12]}; calibrate this one"
        )


def channel_amax(calibration: Calibration | None) -> dict[str, Tensor] | None:
    """The part of a calibration that quantization reads."""
    return None if calibration is None else {path: layer.channel_amax for path, layer in calibration.layers.items()}
