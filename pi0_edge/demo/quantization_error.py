"""Compares the engine of a run with fp32 on what the run's policy saw, with the same noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pi0_edge.demo.run_record import RunRecord
from pi0_edge.demo.summary import QuantizationError
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from quant.compare import compare_actions

COMPARED_CHUNKS = 40


def quantization_error(checkpoint: Path, engine: str, record: RunRecord, arm: list[int]) -> QuantizationError:
    """Both engines answer up to `COMPARED_CHUNKS` observations, evenly spread over the run."""
    torch.set_num_threads(1)  # a network this small gains nothing from a second one
    fp32, quantized = Policy.load(checkpoint, engine="reference"), Policy.load(checkpoint, engine=engine)
    rows = np.unique(np.linspace(0, len(record.state) - 1, COMPARED_CHUNKS).astype(int))
    cosines, differences = [], []
    for row in rows:
        observation = Observation({"top": record.picture[row]}, record.state[row], None)
        theirs = fp32.infer(observation, noise_seed=int(row))
        ours = quantized.infer(observation, noise_seed=int(row))
        cosines.append(compare_actions(theirs.normalized, ours.normalized).cosine)
        differences.append(np.abs(theirs.actions - ours.actions).max(0))
    worst = np.max(differences, axis=0)
    grippers = [joint for joint in range(len(worst)) if joint not in arm]
    return QuantizationError(
        engine=engine,
        chunks=len(rows),
        cosine_mean=float(np.mean(cosines)),
        cosine_worst=float(np.min(cosines)),
        max_error_rad=float(worst[arm].max()),
        max_error_gripper=float(worst[grippers].max()),
    )
