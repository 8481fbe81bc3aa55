"""What a robot hands in, and the checks at this boundary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pi0_edge.errors import ObservationError
from pi0_edge.robots import Robot, place_of_slot


@dataclass(frozen=True)
class Observation:
    """One moment of one robot.

    Attributes:
        images: Camera name -> uint8 [height, width, 3], RGB. A camera of the robot may be absent, not all.
        state: [state_dim], in the robot's own units and joint convention.
        prompt: What to do; None for the robot's default.
    """

    images: Mapping[str, NDArray[np.uint8]]
    state: ArrayLike
    prompt: str | None = None


def checked_images(observation: Observation, robot: Robot) -> dict[str, NDArray[np.uint8]]:
    """The images by slot, in slot order.

    Raises:
        ObservationError: For an unknown camera, none at all, or an image of the wrong type or shape.
    """
    known = ", ".join(robot.cameras)
    if not observation.images:
        raise ObservationError(f"images is empty; expected at least one of the cameras of {robot.name}: {known}")
    by_slot: dict[str, NDArray[np.uint8]] = {}
    for name, image in observation.images.items():
        camera = robot.camera(name)
        if camera is None:
            raise ObservationError(f"images has the camera {name!r}, which {robot.name} does not have; known: {known}")
        slot = robot.cameras[camera]
        if slot in by_slot:
            raise ObservationError(f"images has the camera {camera!r} of {robot.name} under two names; keep one")
        by_slot[slot] = _checked_image(name, image)
    return dict(sorted(by_slot.items(), key=lambda item: place_of_slot(item[0]) or 0))


def checked_state(observation: Observation, robot: Robot) -> NDArray[np.float64]:
    """The state as float64 [state_dim].

    Raises:
        ObservationError: If it is not a vector of `state_dim` finite numbers.
    """
    try:
        state = np.asarray(observation.state)
        numeric = state.dtype.kind in "fiu"
    except ValueError as error:
        raise ObservationError(f"state is not an array of numbers ({error})") from error
    if not numeric or state.shape != (robot.state_dim,):
        raise ObservationError(
            f"state has shape {list(state.shape)} and dtype {state.dtype}, expected {robot.state_dim} numbers "
            f"({robot.name})"
        )
    state = state.astype(np.float64)
    if not np.all(np.isfinite(state)):
        bad = np.flatnonzero(~np.isfinite(state))
        raise ObservationError(
            f"state has {state[bad[0]]} at index {bad[0]} ({len(bad)} such values), expected finite numbers"
        )
    return state


def checked_prompt(observation: Observation, robot: Robot) -> str:
    """The prompt, or the robot's default.

    Raises:
        ObservationError: If there is neither, or it is blank.
    """
    prompt = observation.prompt if observation.prompt is not None else robot.default_prompt
    if prompt is None:
        raise ObservationError(f"prompt is None, expected a sentence; {robot.name} has no default prompt to use")
    if not isinstance(prompt, str) or not prompt.strip():
        default = f"; None means {robot.default_prompt!r}, the default of {robot.name}" if robot.default_prompt else ""
        raise ObservationError(f"prompt is {prompt!r:.80}, expected a sentence{default}")
    return prompt


def _checked_image(name: str, image: object) -> NDArray[np.uint8]:
    if not isinstance(image, np.ndarray):
        raise ObservationError(
            f"images[{name!r}] is a {type(image).__name__}, expected an array, uint8 [height, width, 3]"
        )
    if image.dtype != np.uint8:
        in_unit_range = image.dtype.kind == "f" and image.size and image.min() >= 0 and image.max() <= 1
        advice = "multiply an image in [0, 1] by 255" if in_unit_range else "levels of 0 to 255 need .astype(np.uint8)"
        raise ObservationError(f"images[{name!r}] has dtype {image.dtype}, expected uint8 (0 to 255); {advice}")
    if image.ndim == 3 and image.shape[0] == 3 and image.shape[2] != 3:
        raise ObservationError(
            f"images[{name!r}] has shape {list(image.shape)}, channels first; expected [height, width, 3]: "
            "transpose(1, 2, 0)"
        )
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        advice = ""
        if image.ndim == 2 or image.shape[2:] == (1,):
            advice = "; repeat the one channel three times, if the policy was trained on grey images"
        elif image.shape[2:] == (4,):
            advice = "; leave the fourth channel out"
        raise ObservationError(
            f"images[{name!r}] has shape {list(image.shape)}, expected [height, width, 3] in RGB{advice}"
        )
    return image
