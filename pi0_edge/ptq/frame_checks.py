"""Whether observations are fit to calibrate or judge a policy on; what is wrong with them names the frame.

| refused                                                      | because                                             |
|--------------------------------------------------------------|-----------------------------------------------------|
| fewer frames than the minimum, or fewer that differ          | maxima of a few images are not those of the task  |
| a camera that is black in more than a tenth of the frames    | its lens is covered, or it was not connected        |
| a camera that shows one and the same image in all of them  | it is frozen                                        |
| frames with different cameras                                | a camera dropped out                                |
| a state far outside the policy's statistics                  | see `pi0_edge.processing.trained_range`             |
| anything else that the policy would refuse at run time       | NaN, wrong shapes, an over-long prompt              |

A frame that is wrong in itself (the last three rows) may be left out: `UnfitFrames` says how many of them.

Two images are the same where no cell of a 16 x 16 grid differs by more than four of 255 levels: an arm that moves
changes a cell by more, noise of camera and video codec by less.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pi0_edge.errors import ConfigError, DatasetError, ObservationError, Pi0EdgeError
from pi0_edge.processing import Observation, ObservationProcessor
from pi0_edge.ptq.frames import Frames, Place

BLACK_MEAN = 4.0
"""Mean level of 255 below which a image is black."""

BLACK_SHARE = 0.1
GRID = 16
SAME_LEVELS = 4


class UnfitFrames:
    """Frames that are left out for what is wrong with them, and how many these may be.

    Attributes:
        most: How many may be left out.
        reasons: What is wrong with each that was, by place.
    """

    def __init__(self, most: int = 0) -> None:
        """Allows `most` frames to be left out, over all calls that share this.

        Raises:
            ConfigError: If that is less than none.
        """
        if most < 0:
            raise ConfigError(f"skip_unfit is {most}; expected 0 or more")
        self.most = most
        self.reasons: dict[Place, str] = {}

    def leave_out(self, place: Place, source: str, error: DatasetError | ObservationError) -> None:
        """Notes a frame, or refuses all where there are too many.

        Raises:
            DatasetError: If more than one may be left out, and this is one too many.
            ObservationError: If it is wrong in itself, and none may be left out.
        """
        if place in self.reasons:
            return
        if not self.most:
            raise type(error)(
                f"{source}, {place}: {error}. To leave out up to N such frames, give skip_unfit=N (--skip-unfit N)"
            ) from error
        if len(self.reasons) == self.most:
            raise DatasetError(
                f"{source} has more unfit frames than skip_unfit allows to leave out ({self.most}): "
                f"{self.listing(self.reasons)}; {place}: {error}"
            ) from error
        self.reasons[place] = str(error)

    def among(self, frames: Frames) -> tuple[str, ...]:
        """Those of `frames` that were left out, each with its reason."""
        return tuple(f"{place}: {self.reasons[place]}" for place in frames.places if place in self.reasons)

    @staticmethod
    def listing(reasons: Mapping[Place, str]) -> str:
        """All of them in one line."""
        return "; ".join(f"{place}: {reason}" for place, reason in reasons.items())


@dataclass(frozen=True)
class Inspection:
    """Frames that passed.

    Attributes:
        frames: How many.
        cameras: Those that all of them have.
        sha256: Over the images, states and prompts of all, in order.
        fit: Those frames.
        left_out: The others, each with its reason.
    """

    frames: int
    cameras: tuple[str, ...]
    sha256: str
    fit: Frames
    left_out: tuple[str, ...]


def inspect_frames(
    frames: Frames, processor: ObservationProcessor, minimum: int, unfit: UnfitFrames | None = None
) -> Inspection:
    """Reads all frames once.

    Args:
        frames: From `split_frames`.
        processor: Of the policy that will get them.
        minimum: How many there must be, and how many must differ from each other, without those that are left out.
        unfit: Takes those that are wrong in themselves; None allows none.

    Raises:
        DatasetError: If there are too few, or they are black, identical or of changing cameras; or if too many are
            unfit.
        ObservationError: If one of them is not what the policy expects, or its state is out of range.
    """
    unfit = UnfitFrames() if unfit is None else unfit
    source = _name(frames)
    _check_enough(source, len(frames), minimum)
    hasher = hashlib.sha256()
    places: list[Place] = []
    cameras = frames.source.cameras
    grids: dict[str, list[Grid]] = {camera: [] for camera in cameras}
    black = dict.fromkeys(cameras, 0)
    for place, observation in fit_frames(frames, processor, unfit):
        places.append(place)
        for camera in cameras:
            grids[camera].append(_grid(observation.images[camera]))
            black[camera] += bool(observation.images[camera].mean() < BLACK_MEAN)
        _update_hash(hasher, observation)
    _check_enough(source, len(places), minimum)
    for camera in cameras:
        _check_camera(f"the camera {camera} of {source}", grids[camera], black[camera])
    _check_distinct(source, [np.stack(views) for views in zip(*grids.values(), strict=True)], minimum)
    fit = Frames(frames.source, tuple(places))
    return Inspection(len(fit), tuple(cameras), hasher.hexdigest(), fit, unfit.among(frames))


def fit_frames(
    frames: Frames, processor: ObservationProcessor, unfit: UnfitFrames
) -> Iterator[tuple[Place, Observation]]:
    """The frames that are not wrong in themselves, each with its place; `unfit` takes the others.

    Raises:
        DatasetError: If one is damaged, or if too many are unfit.
        ObservationError: If one is not what the policy expects, or its state is out of range, and none may be.
    """
    for place, observation in frames.attempts():
        try:
            if isinstance(observation, Pi0EdgeError):
                raise observation
            _check_observation(observation, frames.source.cameras, processor)
        except (DatasetError, ObservationError) as error:
            unfit.leave_out(place, _name(frames), error)
            continue
        yield place, observation


def _name(frames: Frames) -> str:
    return f"the {frames.source.kind} {frames.source.path}".strip()


def _check_enough(source: str, found: int, minimum: int) -> None:
    if found < minimum:
        raise DatasetError(f"{source} has {found} frames for this purpose, expected at least {minimum}")


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


def _check_observation(observation: Observation, cameras: Sequence[str], processor: ObservationProcessor) -> None:
    """Refuses what the policy itself would refuse, and a state far from all that it was trained on."""
    if sorted(observation.images) != sorted(cameras):
        raise DatasetError(
            f"it has the cameras {', '.join(observation.images) or 'none'}, others have {', '.join(cameras)}; "
            "expected the same in every frame"
        )
    processor.to_model_inputs(observation)
    unfit = processor.unfit_state(observation)
    if unfit is not None:
        raise ObservationError(str(unfit))


def _update_hash(hasher: hashlib._Hash, observation: Observation) -> None:
    for camera, image in sorted(observation.images.items()):
        hasher.update(f"{camera} {image.shape}\n".encode())
        hasher.update(image.tobytes())
    hasher.update(np.asarray(observation.state, np.float64).tobytes())
    hasher.update(f"{observation.prompt}\n".encode())
