"""How far the actions of a quantized network are from those of the reference, on the same noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pi0_edge.errors import QuantizationError


@dataclass(frozen=True)
class ActionComparison:
    """Candidate against reference, over all actions together, in the units of the actions.

    Attributes:
        cosine: Of the angle between both, 1 where they agree.
        max_abs_error: The largest difference of one value.
        rms_error: Root of the mean squared difference.
        relative_error: Norm of the difference over the norm of the reference.
        worst: Where the largest difference is: its index in the arrays, such as (action, dimension).
    """

    cosine: float
    max_abs_error: float
    rms_error: float
    relative_error: float
    worst: tuple[int, ...]


def compare_actions(reference: ArrayLike, candidate: ArrayLike) -> ActionComparison:
    """Compares two sets of actions, computed in float64.

    Args:
        reference: Of the fp32 network; any shape, the last two axes being [horizon, action_dim].
        candidate: The same shape, from the same inputs and noise.

    Raises:
        QuantizationError: If the shapes differ, or a value is NaN or infinite.
    """
    truth, found = _finite("reference", reference), _finite("candidate", candidate)
    if truth.shape != found.shape:
        raise QuantizationError(f"cannot compare actions of shape {truth.shape} with actions of shape {found.shape}")
    error = found - truth
    worst = np.unravel_index(int(np.abs(error).argmax()), error.shape)
    length = float(np.linalg.norm(truth))
    return ActionComparison(
        cosine=_cosine(truth.ravel(), found.ravel()),
        max_abs_error=float(np.abs(error).max()),
        rms_error=float(np.sqrt(np.mean(error**2))),
        relative_error=float(np.linalg.norm(error)) / length if length else float(np.abs(error).max() > 0),
        worst=tuple(int(i) for i in worst),
    )


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else float(np.array_equal(a, b))


def _finite(name: str, actions: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(actions, dtype=np.float64)
    if not array.size or not np.isfinite(array).all():
        raise QuantizationError(
            f"the {name} actions (shape {array.shape}) are empty or contain NaN or infinity; expected finite values"
        )
    return array
