"""When each row of an episode was recorded: what relates it to the images of a video.

The rate that ``meta/info.json`` states is only compared with the rows, never used instead of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi0_edge.datasets.lerobot_layout import INFO, TIMESTAMP
from pi0_edge.errors import DatasetError

RATE_TOLERANCE = 0.1
"""How far the rate of the rows may be from the stated one, as a share of it."""


def checked_times(values: Any, path: Path, episode: int, fps: float) -> NDArray[np.float64]:
    """The times of all rows of an episode, float64 (T,), in seconds from its start.

    Args:
        values: The column ``timestamp``, a list of T numbers.
        path: File of the rows, for messages.
        episode: Its number, for messages.
        fps: Frames per second, as ``meta/info.json`` states them.

    Raises:
        DatasetError: A time is missing or not finite, is not later than that of the row before, or the rows have
            another rate than the stated one.
    """
    where = f"{path}, episode {episode}"
    try:
        times = np.asarray(values, np.float64).reshape(len(values))
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{where}: {TIMESTAMP} is not one number per row ({error}); record it again") from error
    if len(missing := np.flatnonzero(~np.isfinite(times))):
        raise DatasetError(f"{where}: row {missing[0]} has no {TIMESTAMP}; its image cannot be found without one")
    steps = np.diff(times)
    if len(wrong := np.flatnonzero(steps <= 0)):
        row = int(wrong[0]) + 1
        raise DatasetError(
            f"{where}: row {row} is of {times[row]:.4f} s and row {row - 1} of {times[row - 1]:.4f} s; expected "
            "rows in the order of their times, each later than the one before"
        )
    if len(steps) and abs(np.median(steps) * fps - 1) > RATE_TOLERANCE:
        raise DatasetError(
            f"{where}: its rows are {np.median(steps):.4f} s apart, {1 / np.median(steps):.4g} per second, but {INFO} "
            f"states {fps:g} frames per second; correct whichever is wrong"
        )
    return times


def half_a_frame(times: NDArray[np.float64], fps: float) -> float:
    """How far from its row an image may have been taken, in seconds; one percent more than half of the rows' distance.

    The percent is for cameras of 29.97 images per second beside rows of 30.
    """
    return 0.505 * float(np.median(np.diff(times)) if len(times) > 1 else 1 / fps)
