"""The golden vectors of the upstream implementation (openpi, miniature sizes) as model, inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.model import Pi0
from pi0_edge.verification import Recording, read_inputs

FOLDER = Path(__file__).parents[1] / "data" / "golden"


@dataclass(frozen=True)
class Golden:
    model: Pi0
    recording: Recording
    outputs: dict[str, Tensor]


def load_golden(variant: str, dtype: str = "float32") -> Golden:
    """A fresh model with the golden weights, and what upstream computed with it."""
    checkpoint = open_checkpoint(FOLDER / f"tiny_{variant}_float32.weights.safetensors")
    model = Pi0(checkpoint.infer_config({"vision": {"heads": 4}, "horizon": 50})).eval()
    checkpoint.load_into(model)
    recording = read_inputs(FOLDER / f"tiny_{variant}_float32.inputs.npz")
    return Golden(model, recording, load_file(FOLDER / f"tiny_{variant}_{dtype}.out.safetensors"))


def largest(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference; NaN where either has one."""
    return float((a.float() - b.float()).abs().max()) if a.numel() else 0.0


torch.set_num_threads(1)
