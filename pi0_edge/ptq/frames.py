"""Observations to calibrate on and, apart from them, observations to judge on.

    source = open_source("recordings/", robot)      # from pi0_edge.ptq.sources
    split = split_frames(source, calibration=64, held_out=300, seed=0)
    for observation in split.calibration: ...

Of every two episodes the seed keeps one for calibration and holds the other one out, whatever is asked for and however
many episodes follow, so that a later call never judges on what an earlier one has calibrated on. Within either half the
frames are spread evenly over its time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from pi0_edge.errors import DatasetError, ObservationError, Pi0EdgeError
from pi0_edge.processing import Observation

BLOCKS = 10
"""A source of one episode is cut into as many stretches of time, which then take the place of episodes."""


class ObservationSource(Protocol):
    """Episodes of observations.

    Attributes:
        kind: Such as "lerobot v3.0", "recording", "npz" or "simulation".
        path: As the user gave it; empty for the simulation.
        lengths: Frames of each episode.
        cameras: Cameras of the robot that it has images of.
    """

    kind: str
    path: str
    lengths: tuple[int, ...]
    cameras: tuple[str, ...]

    def read(self, episode: int, frames: Sequence[int]) -> Iterator[Observation]:
        """The observations of one episode, a place in `lengths`, at `frames` in ascending order."""
        ...


@dataclass(frozen=True)
class Place:
    """Where a frame is in its source.

    Attributes:
        episode: A place in `ObservationSource.lengths`.
        frame: Of the episode, from 0.
    """

    episode: int
    frame: int

    def __str__(self) -> str:
        return f"episode {self.episode}, frame {self.frame}"


@dataclass(frozen=True)
class Frames:
    """Chosen frames of a source; iterating reads them anew, one at a time.

    Attributes:
        source: Has the frames.
        places: In the order of iteration.
    """

    source: ObservationSource
    places: tuple[Place, ...]

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Observation]:
        for _, observation in self.attempts():
            if isinstance(observation, Pi0EdgeError):
                raise observation
            yield observation

    def attempts(self) -> Iterator[tuple[Place, Observation | DatasetError | ObservationError]]:
        """Each place with its observation, or with what is wrong with it; the others are read nevertheless.

        Raises:
            DatasetError: If the source ends before the last place.
        """
        for episode in sorted({place.episode for place in self.places}):
            waiting = [place for place in self.places if place.episode == episode]
            while waiting:
                try:
                    for observation in self.source.read(episode, [place.frame for place in waiting]):
                        yield waiting.pop(0), observation
                except (DatasetError, ObservationError) as error:
                    yield waiting.pop(0), error
                else:
                    if waiting:
                        raise DatasetError(f"the {self.source.kind} {self.source.path} ends before {waiting[0]}")


@dataclass(frozen=True)
class Split:
    """Frames without overlap, from different episodes.

    Attributes:
        calibration: To calibrate on.
        held_out: To judge on.
    """

    calibration: Frames
    held_out: Frames


def split_frames(source: ObservationSource, calibration: int, held_out: int, seed: int) -> Split:
    """Chooses frames for either purpose from different episodes; the same for the same seed.

    Args:
        source: Has the frames.
        calibration: How many to calibrate on, at most.
        held_out: How many to judge on, at most.
        seed: Fixes the choice.
    """
    stretches = _stretches(source.lengths)
    # One draw per pair of stretches: those that a source gains later do not move the earlier ones.
    held = [np.random.default_rng((seed, place // 2)).integers(2) == place % 2 for place in range(len(stretches))]
    to_calibrate = [stretch for stretch, is_held in zip(stretches, held, strict=True) if not is_held]
    to_judge = [stretch for stretch, is_held in zip(stretches, held, strict=True) if is_held]
    offset = float(np.random.default_rng(seed).random())
    return Split(
        Frames(source, _spread(to_calibrate, calibration, offset)),
        Frames(source, _spread(to_judge, held_out, offset)),
    )


_Stretch = tuple[int, range]
"""Consecutive frames of one episode."""


def _stretches(lengths: Sequence[int]) -> list[_Stretch]:
    if len(lengths) != 1:
        return [(episode, range(length)) for episode, length in enumerate(lengths)]
    borders = np.linspace(0, lengths[0], BLOCKS + 1).astype(int).tolist()
    return [(0, range(start, end)) for start, end in pairwise(borders)]


def _spread(stretches: Sequence[_Stretch], count: int, offset: float) -> tuple[Place, ...]:
    """`count` places at even distances over all stretches laid end to end, or all of them where there are fewer."""
    ends = np.cumsum([len(frames) for _, frames in stretches])
    total = int(ends[-1]) if len(ends) else 0
    count = min(count, total)
    places = []
    for position in (int((k + offset) * total / count) for k in range(count)):
        number = int(np.searchsorted(ends, position, side="right"))
        episode, frames = stretches[number]
        places.append(Place(episode, frames[position - int(ends[number])]))  # counted from the end of the stretch
    return tuple(places)
