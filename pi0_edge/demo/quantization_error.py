"""Compares the scheme of a run with fp32 on what the run's policy saw, with the same noise."""

from __future__ import annotations

import numpy as np
import torch

from pi0_edge.demo.policy_choice import PolicyChoice
from pi0_edge.demo.run_record import RunRecord
from pi0_edge.demo.summary import QuantizationError
from pi0_edge.evaluation.action_error import answer, compare_answers
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.shipped import shipped_checkpoint

COMPARED_CHUNKS = 40


def quantization_error(choice: PolicyChoice, record: RunRecord, arm: list[int]) -> QuantizationError:
    """Both answer up to `COMPARED_CHUNKS` observations, evenly spread over the run."""
    torch.set_num_threads(1)  # a network this small gains nothing from a second one
    rows = np.unique(np.linspace(0, len(record.state) - 1, COMPARED_CHUNKS).astype(int))
    observations = [Observation({"top": record.picture[row]}, record.state[row]) for row in rows]
    truth = answer(Policy.load(shipped_checkpoint(), engine="reference"), observations)
    policy = choice.load()
    error = compare_answers(truth, answer(policy, observations))
    return QuantizationError(
        scheme=policy.engine.scheme,
        chunks=error.chunks,
        cosine_mean=error.cosine_mean,
        cosine_worst=error.cosine_worst,
        max_error_rad=max(error.max_error[joint] for joint in arm),
        max_error_gripper=max(value for joint, value in enumerate(error.max_error) if joint not in arm),
    )
