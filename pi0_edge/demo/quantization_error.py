"""Compares the scheme of a run with fp32 on what the run's policy saw, with the same noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pi0_edge.demo.run_record import RunRecord
from pi0_edge.demo.summary import QuantizationError
from pi0_edge.evaluation.action_error import answer, compare_answers
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from quant import find_scheme

COMPARED_CHUNKS = 40


def quantization_error(checkpoint: Path, scheme: str, record: RunRecord, arm: list[int]) -> QuantizationError:
    """Both answer up to `COMPARED_CHUNKS` observations, evenly spread over the run."""
    torch.set_num_threads(1)  # a network this small gains nothing from a second one
    rows = np.unique(np.linspace(0, len(record.state) - 1, COMPARED_CHUNKS).astype(int))
    observations = [Observation({"top": record.picture[row]}, record.state[row]) for row in rows]
    truth = answer(Policy.load(checkpoint, engine="reference"), observations)
    error = compare_answers(truth, answer(Policy.load(checkpoint, scheme=find_scheme(scheme)), observations))
    return QuantizationError(
        scheme=scheme,
        chunks=error.chunks,
        cosine_mean=error.cosine_mean,
        cosine_worst=error.cosine_worst,
        max_error_rad=max(error.max_error[joint] for joint in arm),
        max_error_gripper=max(value for joint, value in enumerate(error.max_error) if joint not in arm),
    )
