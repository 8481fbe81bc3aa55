"""Compares the scheme of a run with fp32 on the observations of that run, with the same noise."""

from __future__ import annotations

import numpy as np
import torch

from pi0_edge.demo.policy_choice import PolicyChoice
from pi0_edge.demo.run_record import RunRecord
from pi0_edge.demo.summary import SchemeAccuracy
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.ptq.gate import compare
from pi0_edge.ptq.trace import trace
from pi0_edge.ptq.verdict import Thresholds

COMPARED_CHUNKS = 40


def scheme_accuracy(choice: PolicyChoice, record: RunRecord, arm: list[int]) -> SchemeAccuracy:
    """Both answer up to `COMPARED_CHUNKS` observations, evenly spread over the run."""
    torch.set_num_threads(1)  # a network this small gains nothing from a second one
    rows = np.unique(np.linspace(0, len(record.state) - 1, COMPARED_CHUNKS).astype(int))
    observations = [Observation({"top": record.image[row]}, record.state[row]) for row in rows]
    reference = Policy.load(choice.source, engine="reference")
    policy = choice.load()
    found = compare(
        trace(reference, observations),
        trace(policy, observations),
        reference.processor.robot.action_labels,
        Thresholds(),
    )
    largest = [joint.max for joint in found.joints]
    return SchemeAccuracy(
        scheme=policy.engine.scheme,
        chunks=len(found.cosine_whole),
        cosine_mean=float(np.mean(found.cosine_whole)),
        cosine_worst=min(found.cosine_whole),
        max_error_rad=max(largest[joint] for joint in arm),
        max_error_gripper=max(error for joint, error in enumerate(largest) if joint not in arm),
    )
