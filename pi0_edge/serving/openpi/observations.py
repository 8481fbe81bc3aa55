"""What openpi's robots send, as an observation of the policy's robot.

| runtime | images                                                 | state                                    |
|---------|--------------------------------------------------------|------------------------------------------|
| ALOHA   | `images`: a map, [3, height, width]                    | `state`                                  |
| DROID   | `observation/exterior_image_1_left`, `wrist_image_left` | `observation/joint_position`, `gripper_position` |
| LIBERO  | `observation/image`, `wrist_image`                     | `observation/state`                      |

A camera may have openpi's name, the robot's own, one of its aliases, or π0's slot. What is not known is ignored, as
openpi does, except a camera in `images`. An image whose first dimension is 3 has its channels first: that is always
so for ALOHA. Floats are levels from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ObservationError
from pi0_edge.processing import Method, Observation, RunningPlan, Schedule
from pi0_edge.robots import Robot
from pi0_edge.serving.messages import PROMPT_CHARACTERS
from pi0_edge.serving.openpi.encoding import MOST_ITEMS, decode

DROID_ROWS = 10
"""Rows of a chunk that DROID's runtime asserts, whatever the horizon of the policy is."""

SLOT_OF_CAMERA = {
    "cam_high": "base_0_rgb",
    "cam_left_wrist": "left_wrist_0_rgb",
    "cam_right_wrist": "right_wrist_0_rgb",
    "exterior_image_1_left": "base_0_rgb",
    "wrist_image_left": "left_wrist_0_rgb",
    "image": "base_0_rgb",
    "wrist_image": "left_wrist_0_rgb",
}
"""openpi's names of cameras, and the slots that its policies take them in."""

UNUSED_CAMERAS = ("cam_low",)
"""Cameras that ALOHA's runtime sends and no policy of openpi takes."""

CONTINUATION_FIELDS = ("actions", "delay", "method", "schedule", "overlap", "max_weight")

_FLAT = "observation/"
_JOINTS, _GRIPPER = "observation/joint_position", "observation/gripper_position"
_LARGEST_COUNT = 10_000

Choice = TypeVar("Choice", bound=Enum)


@dataclass(frozen=True)
class OpenpiRequest:
    """What a message asks.

    Attributes:
        observation: Images, state and prompt.
        plan: What the arm executes meanwhile; None where the chunk is free.
        rows: Rows of the chunk that the runtime takes; None for all.
        noise_seed: Fixes the initial noise; None draws it, as always for stock clients.
    """

    observation: Observation
    plan: RunningPlan | None
    rows: int | None
    noise_seed: int | None = None


def read_request(data: bytes, robot: Robot, default_prompt: str | None = None) -> OpenpiRequest:
    """Reads one message.

    Args:
        data: The binary frame.
        robot: The robot of the policy.
        default_prompt: For a message without prompt, as ALOHA's; None for the robot's own.

    Raises:
        ObservationError: If it is not an observation of this robot; the message names the field.
    """
    message = decode(data)
    if not isinstance(message, dict):
        raise ObservationError(f"the message is a {type(message).__name__}, expected a map with images and state")
    return OpenpiRequest(
        observation=Observation(
            _images(message, robot), _state(message, robot), _prompt(message.get("prompt", default_prompt))
        ),
        plan=_plan(message["continuation"], robot) if message.get("continuation") is not None else None,
        rows=DROID_ROWS if _JOINTS in message else None,
        noise_seed=_seed(message.get("noise_seed")),
    )


def _images(message: Mapping[Any, Any], robot: Robot) -> dict[str, NDArray[np.uint8]]:
    nested = message.get("images", {})
    if not isinstance(nested, dict):
        raise ObservationError(f"images is a {type(nested).__name__}, expected a map of camera names to arrays")
    images: dict[str, NDArray[np.uint8]] = {}
    for key, value in nested.items():
        camera = _camera(key, robot)
        if camera is not None:
            _put(images, camera, _image(f"images.{camera}", value))
        elif key not in UNUSED_CAMERAS:
            raise ObservationError(
                f"images has the camera {key!r:.80}, which {robot.name} does not have; known: {_known(robot)}"
            )
    for key, value in message.items():
        camera = _camera(key[len(_FLAT) :], robot) if isinstance(key, str) and key.startswith(_FLAT) else None
        if camera is not None:
            _put(images, camera, _image(key, value))
    if not images:
        raise ObservationError(f"images is empty; expected at least one camera of {robot.name}: {_known(robot)}")
    return images


def _camera(name: object, robot: Robot) -> str | None:
    if not isinstance(name, str):
        return None
    slot = SLOT_OF_CAMERA.get(name)
    return robot.camera(name) or (None if slot is None else robot.camera(slot))


def _known(robot: Robot) -> str:
    return ", ".join([*robot.cameras, *(name for name in SLOT_OF_CAMERA if name not in robot.cameras)])


def _put(images: dict[str, NDArray[np.uint8]], camera: str, image: NDArray[np.uint8]) -> None:
    if camera in images:
        raise ObservationError(f"images has the camera {camera!r} under two names; expected it once")
    images[camera] = image


def _image(where: str, value: object) -> NDArray[np.uint8]:
    if not isinstance(value, np.ndarray):
        raise ObservationError(f"{where} is a {type(value).__name__}, expected an array of uint8 or floats")
    if value.ndim != 3 or 0 in value.shape or 3 not in (value.shape[0], value.shape[2]):
        raise ObservationError(
            f"{where} has shape {list(value.shape)}, expected [3, height, width] or [height, width, 3]"
        )
    if value.dtype.kind == "f":
        lowest, highest = float(value.min()), float(value.max())
        if not (lowest >= 0 and highest <= 1):  # NaN fails both
            raise ObservationError(f"{where} has levels from {lowest:g} to {highest:g}, expected floats from 0 to 1")
        value = (255 * value).astype(np.uint8)
    if value.dtype != np.uint8:
        raise ObservationError(f"{where} has dtype {value.dtype}, expected uint8, or floats from 0 to 1")
    return _channels_last(value) if value.shape[0] == 3 else np.ascontiguousarray(value)


def _channels_last(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[3, height, width] as [height, width, 3]; by channels, which takes a third of the time of a copy by pixels."""
    pixels = np.empty((*image.shape[1:], 3), np.uint8)
    for channel in range(3):
        pixels[..., channel] = image[channel]
    return pixels


def _state(message: Mapping[Any, Any], robot: Robot) -> NDArray[np.float64]:
    if _JOINTS in message or _GRIPPER in message:
        parts = [_numbers(name, message.get(name)) for name in (_JOINTS, _GRIPPER)]
        where, state = f"{_JOINTS} with {_GRIPPER}", np.concatenate(parts)
    else:
        where = "observation/state" if "state" not in message and "observation/state" in message else "state"
        state = _numbers(where, message.get(where))
    if len(state) != robot.state_dim:
        raise ObservationError(f"{where} has {len(state)} numbers, expected {robot.state_dim} ({robot.name})")
    return state


def _numbers(where: str, value: object) -> NDArray[np.float64]:
    """A vector, or one number, as float64."""
    if value is None:
        raise ObservationError(f"{where} is not there; expected a vector of numbers")
    array = _array(where, value)
    if array.ndim > 1:
        raise ObservationError(f"{where} has shape {list(array.shape)}, expected a vector")
    return array.reshape(-1)


def _array(where: str, value: object) -> NDArray[np.float64]:
    """An array, a number, or lists of them. Lists are not numpy's to read: one long text among them takes gigabytes."""
    if isinstance(value, list):
        rows = [_array(where, item) for item in value]
        if len({row.shape for row in rows}) > 1:
            raise ObservationError(f"{where} is a list of different lengths, expected numbers")
        array = np.array(rows, np.float64)
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.size <= MOST_ITEMS:
        array = value.astype(np.float64)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        array = np.array(value, np.float64)
    else:
        found = f"array of {value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
        raise ObservationError(f"{where} has {found}, expected at most {MOST_ITEMS} numbers")
    if not np.all(np.abs(array) <= np.finfo(np.float32).max):  # NaN neither
        raise ObservationError(f"{where} has values that are not finite, or beyond float32; expected numbers")
    return array


def _prompt(value: object) -> str | None:
    if isinstance(value, memoryview):
        try:
            value = str(value[: 4 * PROMPT_CHARACTERS + 1], "utf-8")
        except UnicodeDecodeError as error:
            raise ObservationError(f"prompt is bytes that are not UTF-8 ({error.reason})") from None
    if value is None:
        return None
    if not isinstance(value, str):
        raise ObservationError(f"prompt is a {type(value).__name__}, expected a sentence")
    if len(value) > PROMPT_CHARACTERS:
        raise ObservationError(f"prompt has {len(value)} characters, expected at most {PROMPT_CHARACTERS}; shorten it")
    return value


def _seed(value: object) -> int | None:
    if value is not None and (type(value) is not int or not 0 <= value < 1 << 64):
        raise ObservationError(f"noise_seed is {value!r:.80}, expected a whole number of 64 bits from 0 on")
    return value


def _plan(value: object, robot: Robot) -> RunningPlan:
    """A continuation, with the fields and defaults of `RunningPlan`, in the robot's units."""
    if not isinstance(value, dict) or not {"actions", "delay"} <= value.keys() <= set(CONTINUATION_FIELDS):
        found = f"the fields {', '.join(map(repr, value))}" if isinstance(value, dict) else type(value).__name__
        raise ObservationError(
            f"continuation has {found:.200}; expected a map with actions and delay, and of the rest only "
            f"{', '.join(CONTINUATION_FIELDS[2:])}"
        )
    actions = _array("continuation.actions", value["actions"])
    if actions.ndim != 2 or actions.shape[1] != robot.action_dim:
        raise ObservationError(
            f"continuation.actions has shape {list(actions.shape)}, expected rows of {robot.action_dim} actions"
        )
    return RunningPlan(
        actions=actions,
        delay=_count("delay", value["delay"]),
        method=_choice("method", value.get("method", "guided"), Method),
        schedule=_choice("schedule", value.get("schedule", "linear"), Schedule),
        overlap=_count("overlap", value.get("overlap", RunningPlan.overlap)),
        max_weight=_weight(value.get("max_weight", RunningPlan.max_weight)),
    )


def _count(name: str, value: object) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST_COUNT:
        raise ObservationError(f"continuation.{name} is {value!r:.80}, expected a whole number of rows from 0 on")
    return value


def _weight(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise ObservationError(f"continuation.max_weight is {value!r:.80}, expected a number from 0 on, such as 10")
    return float(value)


def _choice(name: str, value: object, kinds: type[Choice]) -> Choice:
    names = {kind.name.lower(): kind for kind in kinds}
    if not isinstance(value, str) or value.lower() not in names:
        raise ObservationError(f"continuation.{name} is {value!r:.80}, expected one of {', '.join(names)}")
    return names[value.lower()]
