"""Whether observations are fit to calibrate or judge a policy on; what is wrong with them names the frame.

| refused                                                      | because                                             |
|--------------------------------------------------------------|-----------------------------------------------------|
| fewer frames than the minimum, or fewer that differ          | maxima of a few images are not those of the task  |
| a camera that is black in more than a tenth of the frames    | its lens is covered, or it was not connected        |
| a camera that shows one and the same image in all of them  | it is frozen                                        |
| frames with different cameras                                | a camera dropped out                                |
| a state far outside the policy's statistics                  | see `pi0_edge.processing.trained_range`             |
| anything else that the policy would refuse at run time       | NaN, wrong shapes, an over-long prompt              |

Two images are the same where no cell of a 16 x 16 grid differs by more than four of 255 levels: an arm that moves
changes a cell by more, noise of camera and video codec by less.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pi0_edge.errors import DatasetError, ObservationError
from pi0_edge.processing import Observation, ObservationProcessor
from pi0_edge.ptq.frames import Frames

BLACK_MEAN = 4.0
"""Mean level of 255 below which a image is black."""

BLACK_SHARE = 0.1
GRID = 16
SAME_LEVELS = 4


@dataclass(frozen=True)
class Inspection:
    """Frames that passed.

    Attributes:
        frames: How many.
        cameras: Those that all of them have.
        sha256: Over the images, states and prompts of all, in order.
    """

    frames: int
    cameras: tuple[str, ...]
    sha256: str


def inspect_frames(frames: Frames, processor: ObservationProcessor, minimum: int) -> Inspection:
    """Reads all frames once.

    Args:
        frames: From `split_frames`.
        processor: Of the policy that will get them.
        minimum: How many there must be, and how many must differ from each other.

    Raises:
        DatasetError: If there are too few, or they are black, identical or of changing cameras.
        ObservationError: If one of them is not what the policy expects, or its state is out of range.
    """
    source = f"the {frames.source.kind} {frames.source.path}".strip()
    if len(frames) < minimum:
        raise DatasetError(f"{source} has {len(frames)} frames for this purpose, expected at least {minimum}")
    hasher = hashlib.sha256()
    cameras = frames.source.cameras
    grids: dict[str, list[Grid]] = {camera: [] for camera in cameras}
    black = dict.fromkeys(cameras, 0)
    for place, observation in zip(frames.places, frames, strict=True):
        if tuple(sorted(observation.images)) != tuple(sorted(cameras)):
            raise DatasetError(
                f"{source}, {place}, has the cameras {', '.join(observation.images) or 'none'}, "
                f"others have {', '.join(cameras)}; expected the same in every frame"
            )
        _check_observation(f"{source}, {place}", observation, processor)
        for camera in cameras:
            grids[camera].append(_grid(observation.images[camera]))
            black[camera] += bool(observation.images[camera].mean() < BLACK_MEAN)
        _update_hash(hasher, observation)
    for camera in cameras:
        _check_camera(f"the camera {camera} of {source}", grids[camera], black[camera])
    _check_distinct(source, [np.stack(views) for views in zip(*grids.values(), strict=True)], minimum)
    return Inspection(len(frames), tuple(cameras), hasher.hexdigest())


Grid = NDArray[np.int16]
"""A image in [16, 16] grey levels."""


def _grid(image: NDArray[np.uint8]) -> Grid:
    return np.asarray(Image.fromarray(image).convert("L").resize((GRID, GRID), Image.Resampling.BOX), np.int16)


def _same(one: Grid, other: Grid) -> bool:
    return bool(np.abs(one - other).max() <= SAME_LEVELS)


def _check_camera(name: str, grids: list[Grid], black: int) -> None:
    if black > BLACK_SHARE * len(grids):
        raise DatasetError(f"{name} is black in {black} of {len(grids)} frames; uncover it, and record again")
    if len(grids) > 1 and all(_same(grid, grids[0]) for grid in grids):
        raise DatasetError(f"{name} shows the same image in all {len(grids)} frames; is it frozen? Record again")


def _check_distinct(source: str, frames: list[Grid], minimum: int) -> None:
    """Frames differ where a image of any of their cameras does."""
    distinct: list[Grid] = []
    for frame in frames:
        if not any(_same(frame, other) for other in distinct):
            distinct.append(frame)
        if len(distinct) == minimum:
            return
    raise DatasetError(
        f"only {len(distinct)} of {len(frames)} frames of {source} differ from each other, "
        f"expected at least {minimum}; record while the robot works"
    )


def _check_observation(name: str, observation: Observation, processor: ObservationProcessor) -> None:
    """Refuses what the policy itself would refuse, and a state far from all that it was trained on."""
    try:
        processor.to_model_inputs(observation)
    except ObservationError as error:
        raise ObservationError(f"{name}: {error}") from error
    unfit = processor.unfit_state(observation)
    if unfit is not None:
        raise ObservationError(f"{name}: {unfit}")


def _update_hash(hasher: hashlib._Hash, observation: Observation) -> None:
    for camera, image in sorted(observation.images.items()):
        hasher.update(f"{camera} {image.shape}\n".encode())
        hasher.update(image.tobytes())
    hasher.update(np.asarray(observation.state, np.float64).tobytes())
    hasher.update(f"{observation.prompt}\n".encode())
