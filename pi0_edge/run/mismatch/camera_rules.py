"""Rules about images: black, frozen, and what may have happened to a camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi0_edge.cameras import CameraImage
from pi0_edge.run.mismatch.joint_rules import UNLIKE, Compared, clear_winner
from pi0_edge.run.mismatch.rules import RULES, Mismatch
from pi0_edge.training_profile import CameraProfile
from pi0_edge.training_profile.limits import Limits, persistent
from pi0_edge.training_profile.pictures import (
    CAMERA_CHANGES,
    OTHER_CAMERA,
    ExamplesOfCamera,
    Thumbnails,
    alternatives,
    thumbnail,
)

BLACK_LEVEL = 4.0
"""Mean level of 255 below which an image is black, as where frames for calibration are checked."""

CLEARLY = 0.25
"""By how much more than in any training episode an alternative must be nearer, in `pictures` distances."""

OTHER_LIGHT = 2.0
"""How far from the training data other light takes an image; one farther away than this and `UNLIKE` is unlike them."""

MOVED = 0.25
"""How far a joint must have moved, in its range, for an image that stayed the same to be frozen."""

_ADVICE = "check where it is mounted, how it is set, and which one it is"


@dataclass(frozen=True)
class Seen:
    """What is kept of one image.

    Attributes:
        small: uint8 [32, 32, 3].
        taken_ns: When it was taken.
    """

    small: NDArray[np.uint8]
    taken_ns: int

    @classmethod
    def of(cls, image: CameraImage) -> Seen:
        """What is kept of `image`."""
        return cls(thumbnail(image.pixels), image.taken_ns)


class CameraRules:
    """The rules about images, for the cameras of one profile."""

    def __init__(self, cameras: Mapping[str, CameraProfile]) -> None:
        self._starting = {
            name: ExamplesOfCamera(camera.thumbnails[: camera.starts]) for name, camera in cameras.items()
        }
        self._running = {name: ExamplesOfCamera(camera.thumbnails) for name, camera in cameras.items()}
        self._cameras = cameras

    def at_rest(self, seen: Mapping[str, Sequence[Seen]]) -> list[Mismatch]:
        """What is wrong with images of a robot at rest where episodes begin, by camera."""
        found = []
        for camera, images in seen.items():
            small = np.stack([image.small for image in images])
            limits = self._cameras[camera].starting if camera in self._cameras else None
            if is_black(small):
                found.append(_black(camera, small))
            elif is_stale(images):
                found.append(_frozen(camera, f"{len(images)} observations have one and the same image"))
            elif limits is not None:
                compared = _compared(camera, small, self._starting)
                found += _other_camera(camera, compared, limits) or _unlike(camera, compared, limits)
        return found

    def compared(self, camera: str, seen: Seen) -> Compared | None:
        """How far one image is from the training data; None for a camera that they do not have."""
        return _compared(camera, seen.small[None], self._running)[0] if camera in self._running else None

    def while_running(
        self, camera: str, images: Sequence[Seen], compared: Sequence[Compared], moved: float
    ) -> list[Mismatch]:
        """What is wrong with the last images of one camera.

        Args:
            camera: Its name.
            images: The last ones.
            compared: What `compared` says of each; empty for a camera that the training data do not have.
            moved: How far any joint moved meanwhile, in its range.
        """
        small = np.stack([image.small for image in images])
        if is_black(small):
            return [_black(camera, small)]
        if is_stale(images) or (moved >= MOVED and (small == small[0]).all()):
            return [_frozen(camera, f"the last {len(images)} images are the same, although the robot moved")]
        return _other_camera(camera, compared, self._cameras[camera].running) if compared else []


def is_black(small: Thumbnails) -> bool:
    """Whether at least two thirds of the images, uint8 [n, 32, 32, 3], are black."""
    return persistent(-small.mean(axis=(1, 2, 3))) > -BLACK_LEVEL


def is_stale(images: Sequence[Seen]) -> bool:
    """Whether a camera stopped: all observations have the image of one moment."""
    return len(images) > 1 and len({image.taken_ns for image in images}) == 1


def _black(camera: str, small: Thumbnails) -> Mismatch:
    level = float(np.median(small.mean(axis=(1, 2, 3))))
    text = f"the camera {camera} is black (mean level {level:.2g} of 255); uncover its lens, and check its cable"
    return Mismatch("camera-black", camera, text, refuses=True)


def _frozen(camera: str, why: str) -> Mismatch:
    text = f"the camera {camera} is frozen: {why}; connect it again"
    return Mismatch("camera-frozen", camera, text, refuses=True)


def _compared(camera: str, small: Thumbnails, examples: Mapping[str, ExamplesOfCamera]) -> list[Compared]:
    own = examples[camera].distances(small)
    others = alternatives(camera, small, examples)
    return [Compared(float(apart), {name: float(of[k]) for name, of in others.items()}) for k, apart in enumerate(own)]


def _other_camera(camera: str, compared: Sequence[Compared], limits: Limits) -> list[Mismatch]:
    name = clear_winner(compared, limits, CLEARLY, _still_alike(limits))
    if name is None:
        return []
    rule, words = _meaning(name)
    better = np.median([moment.others[name] for moment in compared])
    text = (
        f"the images of the camera {camera} are at a distance of {_own(compared):.3g} from the training data, expected "
        f"at most {limits.distance:.3g}; as if {words}, which would give {better:.3g}; {_ADVICE}"
    )
    return [Mismatch(next(known for known in RULES if known == rule), camera, text, refuses=True)]


def _unlike(camera: str, compared: Sequence[Compared], limits: Limits) -> list[Mismatch]:
    if (apart := _own(compared)) <= _still_alike(limits):
        return []
    text = (
        f"the images of the camera {camera} are at a distance of {apart:.3g} from the training data, expected at most "
        f"{limits.distance:.3g}, and no exchange, turn or crop explains it; {_ADVICE}"
    )
    return [Mismatch("camera-view", camera, text, refuses=False)]


def _still_alike(limits: Limits) -> float:
    return UNLIKE * limits.distance + OTHER_LIGHT


def _own(compared: Sequence[Compared]) -> float:
    return persistent(np.array([moment.own for moment in compared]))


def _meaning(name: str) -> tuple[str, str]:
    """The rule that an alternative breaks, and the alternative in words."""
    if name.startswith(OTHER_CAMERA):
        return "camera-swapped", f"it came from the camera {name.removeprefix(OTHER_CAMERA)}"
    change = CAMERA_CHANGES[name]
    return change.rule, change.words
