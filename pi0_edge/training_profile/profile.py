"""The training profile: what it holds, and its file.

`training_profile.json` lies in a bundle, listed in its manifest, or beside the weights of a checkpoint. It is JSON with
the thumbnails in base64, less than 1 MB, and the same bytes for the same training data.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ConfigError
from pi0_edge.json_files import read_json_object
from pi0_edge.synced_files import save_synced
from pi0_edge.training_profile.limits import Limits
from pi0_edge.training_profile.pictures import SIDE, Thumbnails

NAME = "training_profile.json"
FORMAT = "pi0-edge-training-profile"
FORMAT_VERSION = 1
LARGEST_FILE = 4 * 2**20
"""Bytes; a larger file is not read."""

LEVELS = (0.0, 0.001, 0.01, 0.5, 0.99, 0.999, 1.0)
"""Quantiles that are kept of every joint; the ranges that the guard accepts begin and end with the second ones."""

LOW, HIGH = LEVELS.index(0.001), LEVELS.index(0.999)

Quantiles = NDArray[np.float64]
"""float64 [len(LEVELS), joints]."""

_AGAIN = "make it again with `pi0-edge calibrate --training-profile`"


@dataclass(frozen=True, eq=False)
class JointProfile:
    """The joints in the training data, in the robot's own units and joint convention.

    Attributes:
        names: In the order of the state.
        state: Quantiles of all states.
        beyond: float64 [joints], how far outside `LEVELS[LOW]` to `LEVELS[HIGH]` held-out episodes go.
        examples: float64 [n, joints], states that are far from each other.
        running: Limits of the distance from `examples`.
        start: Quantiles of the first states of the episodes.
        start_beyond: As `beyond`, of first states.
        start_examples: float64 [n, joints], as `examples`, of first states.
    """

    names: tuple[str, ...]
    state: Quantiles
    beyond: NDArray[np.float64]
    examples: NDArray[np.float64]
    running: Limits
    start: Quantiles
    start_beyond: NDArray[np.float64]
    start_examples: NDArray[np.float64]

    @property
    def widths(self) -> NDArray[np.float64]:
        """How far each joint moves, float64 [joints]: between the 0.1 % and the 99.9 % quantile."""
        return self.state[HIGH] - self.state[LOW]


@dataclass(frozen=True, eq=False)
class ActionProfile:
    """The actions in the training data; absolute positions, in the robot's own units and joint convention.

    Attributes:
        first: Quantiles of |action - state| of the same row.
        first_beyond: float64 [joints], how far above `first[HIGH]` held-out episodes go.
        half_second: Quantiles of |action - the action half a second before|; None where the rate is not known.
    """

    first: Quantiles
    first_beyond: NDArray[np.float64]
    half_second: Quantiles | None = None


@dataclass(frozen=True, eq=False)
class CameraProfile:
    """The images of one camera in the training data.

    Attributes:
        height: Of the images as they were recorded, pixels.
        width: Likewise.
        thumbnails: uint8 [n, 32, 32, 3], images that are far from each other; first images of episodes come first.
        starts: How many of them are first images of episodes.
        starting: Limits of the distance from those, for first images.
        running: Limits of the distance from all of them, for any image.
    """

    height: int
    width: int
    thumbnails: Thumbnails
    starts: int
    starting: Limits
    running: Limits


@dataclass(frozen=True, eq=False)
class TrainingProfile:
    """What the training data of a policy looked like.

    Attributes:
        robot: Name of the robot's layout.
        source: What it was collected from, such as "lerobot v3.0 demonstrations".
        episodes: How many episodes were used.
        left_out: How many could not be used, because they are damaged or do not fit the robot.
        frames: How many rows these have.
        control_hz: Rows per second; None where the data do not tell.
        prompts: All prompts, sorted; empty where there are too many to keep.
        joints: States.
        actions: Actions; None where they are not positions of the joints.
        cameras: By the name that the robot gives the camera.
        missing: What the guard cannot check because the data lack it: rule -> why.
    """

    robot: str
    source: str
    episodes: int
    left_out: int
    frames: int
    control_hz: float | None
    prompts: tuple[str, ...]
    joints: JointProfile
    actions: ActionProfile | None
    cameras: Mapping[str, CameraProfile]
    missing: Mapping[str, str]

    @property
    def summary(self) -> str:
        """What it was collected from, in one line."""
        rate = "an unknown rate" if self.control_hz is None else f"{self.control_hz:g} Hz"
        left_out = f" ({self.left_out} could not be used)" if self.left_out else ""
        cameras = ", ".join(self.cameras) or "no camera"
        return (
            f"{self.episodes} episodes{left_out} of {self.source}, {len(self.joints.names)} joints, {cameras}, {rate}"
        )

    def to_bytes(self) -> bytes:
        """The file."""
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, **_plain(self)}
        return (json.dumps(content, separators=(",", ":"), sort_keys=True, allow_nan=False) + "\n").encode()

    def save(self, path: str | Path) -> None:
        """Writes the file; it appears complete or not at all.

        Raises:
            ConfigError: If it cannot be written.
        """
        try:
            save_synced(Path(path), self.to_bytes())
        except OSError as error:
            raise ConfigError(f"the training profile {path} cannot be written ({error.strerror or error})") from error

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON has; the inverse of `from_dict`."""
        return json.loads(self.to_bytes())

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], name: str) -> TrainingProfile:
        """Reads what `to_dict` gave.

        Raises:
            ConfigError: If it is no training profile of this version, or damaged; the message begins with `name`.
        """
        if content.get("format") != FORMAT:
            raise ConfigError(f"{name} has the format {content.get('format')!r}, expected {FORMAT!r}")
        if content.get("format_version") != FORMAT_VERSION:
            raise ConfigError(
                f"{name} has format version {content.get('format_version')!r}, this pi0-edge reads {FORMAT_VERSION}; "
                f"{_AGAIN}, or update pi0-edge"
            )
        try:
            return _parsed(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"{name} is damaged ({type(error).__name__}: {error}); copy it again, or {_AGAIN}"
            ) from error


def load_training_profile(path: str | Path) -> TrainingProfile:
    """Reads a training profile.

    Raises:
        ConfigError: If it cannot be read, is damaged, or of another format or version.
    """
    path = Path(path)
    if path.is_file() and path.stat().st_size > LARGEST_FILE:
        raise ConfigError(f"{path} has {path.stat().st_size} bytes; a training profile has at most {LARGEST_FILE}")
    return TrainingProfile.from_dict(read_json_object(path, ConfigError, _AGAIN), str(path))


def find_training_profile(checkpoint: str | Path) -> TrainingProfile | None:
    """The training profile that lies beside the weights of a checkpoint, or in a bundle; None where there is none.

    Args:
        checkpoint: File or folder.

    Raises:
        ConfigError: If there is one and it cannot be used.
    """
    path = Path(checkpoint)
    file = (path if path.is_dir() else path.parent) / NAME
    return load_training_profile(file) if file.is_file() else None


def _plain(value: Any) -> Any:
    """Dataclasses as objects, arrays as lists of rounded numbers, thumbnails in base64."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        if value.dtype == np.uint8:
            return base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return [_plain(row) for row in value]
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.6g}")
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _parsed(content: Mapping[str, Any]) -> TrainingProfile:
    joints = _joints(content["joints"])
    count = len(joints.names)
    actions = content["actions"]
    rate = content["control_hz"]
    return TrainingProfile(
        robot=_typed(content["robot"], str),
        source=_typed(content["source"], str),
        episodes=_count(content["episodes"]),
        left_out=_count(content["left_out"]),
        frames=_count(content["frames"]),
        control_hz=None if rate is None else _positive(rate),
        prompts=tuple(_typed(prompt, str) for prompt in content["prompts"]),
        joints=joints,
        actions=None if actions is None else _actions(actions, count),
        cameras={_typed(name, str): _camera(camera) for name, camera in content["cameras"].items()},
        missing={_typed(rule, str): _typed(why, str) for rule, why in content["missing"].items()},
    )


def _joints(content: Mapping[str, Any]) -> JointProfile:
    names = tuple(_typed(name, str) for name in content["names"])
    count, levels = len(names), len(LEVELS)
    return JointProfile(
        names=names,
        state=_numbers(content["state"], (levels, count)),
        beyond=_numbers(content["beyond"], (count,)),
        examples=_numbers(content["examples"], (None, count)),
        running=_limits(content["running"]),
        start=_numbers(content["start"], (levels, count)),
        start_beyond=_numbers(content["start_beyond"], (count,)),
        start_examples=_numbers(content["start_examples"], (None, count)),
    )


def _actions(content: Mapping[str, Any], count: int) -> ActionProfile:
    shape, half = (len(LEVELS), count), content["half_second"]
    return ActionProfile(
        first=_numbers(content["first"], shape),
        first_beyond=_numbers(content["first_beyond"], (count,)),
        half_second=None if half is None else _numbers(half, shape),
    )


def _camera(content: Mapping[str, Any]) -> CameraProfile:
    pixels = np.frombuffer(base64.b64decode(content["thumbnails"], validate=True), np.uint8)
    thumbnails = pixels.reshape(-1, SIDE, SIDE, 3)
    starts = _count(content["starts"])
    if not 0 < starts <= len(thumbnails):
        raise ValueError(f"{starts} of {len(thumbnails)} thumbnails are first images")
    return CameraProfile(
        height=_count(content["height"]),
        width=_count(content["width"]),
        thumbnails=thumbnails,
        starts=starts,
        starting=_limits(content["starting"]),
        running=_limits(content["running"]),
    )


def _limits(content: Mapping[str, Any]) -> Limits:
    margins = {_typed(name, str): _number(margin) for name, margin in content["margins"].items()}
    return Limits(_number(content["distance"]), margins)


def _numbers(content: object, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
    found = np.array(content, np.float64)
    if found.ndim != len(shape) or any(want not in (None, has) for want, has in zip(shape, found.shape, strict=True)):
        raise ValueError(f"an array has the shape {found.shape}, expected {shape}")
    if not found.size or not np.isfinite(found).all():
        raise ValueError("an array is empty or holds values that are not finite")
    return found


def _number(content: object) -> float:
    if type(content) not in (int, float) or not np.isfinite(content):  # pyright: ignore[reportArgumentType, reportCallIssue]
        raise ValueError(f"{content!r:.40} is no finite number")
    return float(content)  # pyright: ignore[reportArgumentType]


def _positive(content: object) -> float:
    if (found := _number(content)) <= 0:
        raise ValueError(f"{found:g} is not above zero")
    return found


def _count(content: object) -> int:
    if type(content) is not int or content < 0:
        raise ValueError(f"{content!r:.40} is no count")
    return content


def _typed(content: Any, kind: type) -> Any:
    if type(content) is not kind:
        raise TypeError(f"{content!r:.40} is no {kind.__name__}")
    return content
