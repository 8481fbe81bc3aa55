"""The newest message of every camera and of the joints, and the observation that they make."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ObservationError
from pi0_edge_ros.images import read_compressed_image, read_image
from pi0_edge_ros.joints import names_any, read_joints
from pi0_edge_ros.settings import Camera
from pi0_edge_ros.trajectories import NANOSECONDS

_AHEAD_NS = NANOSECONDS // 20
"""How far a stamp may lie ahead of the clock: two computers whose clocks are kept by NTP differ by less."""


class Observed(NamedTuple):
    """One moment of the robot, as a policy client takes it.

    Attributes:
        images: Camera -> uint8 [height, width, 3], RGB.
        state: [joints], in the order of the policy.
        prompt: What to do.
        time_ns: Stamp of the joint state, ns.
    """

    images: dict[str, NDArray[np.uint8]]
    state: NDArray[np.float64]
    prompt: str
    time_ns: int


class Moment(NamedTuple):
    """Messages that belong together; they are decoded where there is time for it.

    Attributes:
        images: Camera -> message.
        joints: A joint state.
        prompt: What to do.
        time_ns: Stamp of the joint state, ns.
    """

    images: dict[str, Any]
    joints: Any
    prompt: str
    time_ns: int


def stamp_ns(message: Any) -> int:
    """The time in the header of a message, ns."""
    stamp = message.header.stamp
    return stamp.sec * NANOSECONDS + stamp.nanosec


class Inbox:
    """Takes messages from any thread; taking one costs nothing.

    Attributes:
        prompt: What to do.
    """

    def __init__(
        self, cameras: Sequence[Camera], joints: Sequence[str], prompt: str, max_age_s: float, max_apart_s: float
    ) -> None:
        """Starts empty.

        Args:
            cameras: That make an observation, all of them.
            joints: Names, in the order of the policy.
            prompt: What to do until `take_prompt`.
            max_age_s: Older messages make no observation, seconds.
            max_apart_s: Nor does an image that was taken further from the joint state than this, seconds.
        """
        self.prompt = prompt
        self._cameras = {camera.name: camera for camera in cameras}
        self._names = tuple(joints)
        self._max_age_ns = round(max_age_s * NANOSECONDS)
        self._max_apart_ns = round(max_apart_s * NANOSECONDS)
        self._lock = threading.Lock()
        self._images: dict[str, Any] = {}
        self._joints: Any = None

    def take_image(self, camera: str, message: Any) -> None:
        """Keeps an image of a camera instead of the one before."""
        with self._lock:
            self._images[camera] = message

    def take_joints(self, message: Any) -> None:
        """Keeps a joint state instead of the one before, unless it is about other joints alone."""
        if names_any(message, self._names):
            with self._lock:
                self._joints = message

    def take_prompt(self, text: str) -> None:
        """Takes another prompt.

        Raises:
            ObservationError: If it is blank; the one before stays.
        """
        if not text.strip():
            raise ObservationError("a prompt that is blank, expected a sentence; the one before stays")
        self.prompt = text

    def moment(self, now_ns: int) -> Moment:
        """The newest messages, if they may be used together.

        Args:
            now_ns: The time now, by the clock of the stamps.

        Raises:
            ObservationError: If one is missing, too old, or was taken too far from the others; it names it.
        """
        with self._lock:
            images, joints = dict(self._images), self._joints
        if not self.prompt:
            raise ObservationError("no prompt, expected a sentence; publish one, or set the parameter prompt")
        if joints is None:
            raise ObservationError(f"no joint state with any of {', '.join(self._names)} has come")
        time_ns = self._fresh(joints, "joint state", now_ns)
        for name in self._cameras:
            if name not in images:
                raise ObservationError(f"no image of the camera {name} has come")
            apart_ns = abs(self._fresh(images[name], f"image of the camera {name}", now_ns) - time_ns)
            if apart_ns > self._max_apart_ns:
                raise ObservationError(
                    f"the image of the camera {name} was taken {apart_ns / NANOSECONDS:.3f} s from the joint state, "
                    f"expected at most {self._max_apart_ns / NANOSECONDS:g} s (max_apart_s)"
                )
        return Moment({name: images[name] for name in self._cameras}, joints, self.prompt, time_ns)

    def read(self, moment: Moment) -> Observed:
        """Decodes a moment.

        Raises:
            ObservationError: If an image or the joint state is not as it must be; it names the camera.
            MissingDependencyError: If compressed images need a package that is not installed.
        """
        images = {}
        for name, message in moment.images.items():
            try:
                read = read_compressed_image if self._cameras[name].compressed else read_image
                images[name] = read(message)
            except ObservationError as error:
                raise ObservationError(f"camera {name}: {error}") from error
        return Observed(images, read_joints(moment.joints, self._names), moment.prompt, moment.time_ns)

    def _fresh(self, message: Any, what: str, now_ns: int) -> int:
        """The stamp of a message that is neither too old nor from the future."""
        taken_ns = stamp_ns(message)
        if not taken_ns:
            raise ObservationError(f"the {what} has no stamp, expected the time it was taken; mend its driver")
        age_ns = now_ns - taken_ns
        if age_ns > self._max_age_ns:
            raise ObservationError(
                f"the {what} is {age_ns / NANOSECONDS:.3f} s old, expected at most "
                f"{self._max_age_ns / NANOSECONDS:g} s (max_age_s)"
            )
        if age_ns < -_AHEAD_NS:
            raise ObservationError(
                f"the {what} was taken {-age_ns / NANOSECONDS:.3f} s from now in the future; let all nodes use one "
                "clock (use_sim_time, or NTP)"
            )
        return taken_ns
