"""Rules about chunks: where they begin, and whether successive ones agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pi0_edge.run.mismatch.joint_rules import WIDENED
from pi0_edge.run.mismatch.rules import Mismatch
from pi0_edge.training_profile.profile import HIGH, ActionProfile

Chunk = NDArray[np.floating]
"""[horizon, joints], physical units; action k is due k + 1 ticks after its observation."""

_SHOWN = 4


def first_action(
    profile: ActionProfile,
    names: Sequence[str],
    widths: NDArray[np.float64],
    state: NDArray[np.float64],
    chunk: Chunk,
) -> Mismatch | None:
    """Whether a chunk begins as near to the joints as actions of the training data do.

    Args:
        profile: Of the training data.
        names: Of the joints.
        widths: How far each joint moves, float64 [joints].
        state: Measured joints, [joints].
        chunk: The answer to it.
    """
    allowed = profile.first[HIGH] + np.maximum(profile.first_beyond, WIDENED * widths)
    first = np.asarray(chunk[0], np.float64)
    off = [int(place) for place in np.flatnonzero(np.abs(first - state) > allowed)]
    if not off:
        return None
    listed = "; ".join(
        f"{names[place]} stands at {state[place]:.4g} and shall go to {first[place]:.4g} at once, expected at most "
        f"{allowed[place]:.3g} away"
        for place in off[:_SHOWN]
    )
    subject = ", ".join(names[place] for place in off)
    if (np.abs(first[off]) <= allowed[off]).all():
        text = (
            f"{listed}: these actions are differences from the joints, but positions are expected; check delta_actions"
        )
        return Mismatch("relative-actions", subject, text, refuses=True)
    degrees = (np.abs(first[off] * np.pi / 180 - state[off]) <= allowed[off]).all()
    likely = "the actions are in degrees" if degrees else "check the statistics, units and order of the actions"
    return Mismatch("first-action", subject, f"{listed}; {likely}", refuses=True)


def disagreement(
    profile: ActionProfile, widths: NDArray[np.float64], before: Chunk, after: Chunk, ticks: int, control_hz: float
) -> NDArray[np.float64]:
    """How far two successive chunks are apart in the first half second that both plan, in what is allowed; [joints].

    Allowed is as much as an action of the training data changes in half a second: a chunk that is farther away than
    that plans something else (STAC, Agia et al. 2024, arXiv 2410.04640, with one sample). The median over time counts.

    Args:
        profile: Of the training data, with `half_second`.
        widths: How far each joint moves, float64 [joints].
        before: The earlier chunk.
        after: The later one.
        ticks: How many ticks later its observation was.
        control_hz: Ticks per second.
    """
    if profile.half_second is None:
        raise ValueError("the profile has no changes over half a second")
    length = min(len(before) - ticks, len(after), max(1, round(control_hz / 2)))
    apart = np.abs(np.asarray(before[ticks : ticks + length], np.float64) - after[:length])
    return np.median(apart, axis=0) / (profile.half_second[HIGH] + WIDENED * widths)
