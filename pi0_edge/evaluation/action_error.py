"""How far the actions of one engine are from those of another: same observations, same noise.

The cosine is taken on normalized actions, where every joint counts alike and no mean pose makes chunks look similar;
errors are in the robot's own units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from quant.compare import compare_actions


@dataclass(frozen=True)
class Answers:
    """The chunks of one policy.

    Attributes:
        normalized: float32 [observations, horizon, action_dim of the robot], as the network gave them.
        physical: float64 of the same shape, in the robot's units.
    """

    normalized: NDArray[np.float32]
    physical: NDArray[np.float64]


@dataclass(frozen=True)
class ActionError:
    """A candidate against the reference.

    Attributes:
        chunks: How many chunks were compared.
        cosine_mean: Of the cosines between whole chunks.
        cosine_worst: The smallest of them.
        max_error: Largest difference per joint, in the robot's units.
        rms_error: Root of the mean squared difference per joint, in the robot's units.
    """

    chunks: int
    cosine_mean: float
    cosine_worst: float
    max_error: tuple[float, ...]
    rms_error: tuple[float, ...]


def answer(policy: Policy, observations: Sequence[Observation]) -> Answers:
    """Asks a policy for one chunk per observation; the noise of each depends on its place alone.

    Raises:
        ObservationError: If an observation does not fit the robot.
    """
    chunks = [policy.infer(observation, noise_seed=place) for place, observation in enumerate(observations)]
    dims = policy.processor.robot.action_dim
    return Answers(np.stack([c.normalized[:, :dims] for c in chunks]), np.stack([c.actions for c in chunks]))


def compare_answers(reference: Answers, candidate: Answers) -> ActionError:
    """Compares chunk by chunk and joint by joint.

    Raises:
        QuantizationError: If the shapes differ or a value is not finite.
    """
    pairs = zip(reference.normalized, candidate.normalized, strict=True)
    cosines = [compare_actions(truth, found).cosine for truth, found in pairs]
    difference = np.abs(candidate.physical - reference.physical)
    return ActionError(
        chunks=len(cosines),
        cosine_mean=float(np.mean(cosines)),
        cosine_worst=float(np.min(cosines)),
        max_error=tuple(difference.max((0, 1)).tolist()),
        rms_error=tuple(np.sqrt((difference**2).mean((0, 1))).tolist()),
    )
