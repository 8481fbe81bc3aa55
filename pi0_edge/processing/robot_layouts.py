"""Robots as data: what a robot's state, actions and cameras are, and how they map to π0's.

A layout is a YAML file; those in `robots/` are known by name, a user's own is given by its path::

    name: my_robot
    description: one line
    state_dim: 7                  # 1 to 32; padded with zeros to the network's width
    action_dim: 7
    cameras: {front: base_0_rgb, wrist: left_wrist_0_rgb}
    delta_actions: [6, -1]        # optional: six dimensions relative to the state, one absolute; default all absolute
    joint_convention: none        # optional: a transform of `joint_conventions`
    default_prompt: null          # optional: used where an observation has none
    control_hz: 20                # actions per second; null where it is not known (LeRobot does not record it)
    asset_id: ur5e                # optional: statistics of this robot in openpi's base checkpoints
    action_names: [...]           # optional: one per action dimension
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from pi0_edge.errors import ConfigError
from pi0_edge.processing.joint_conventions import CONVENTIONS

SLOTS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
"""π0's three camera slots, in the order of their image tokens."""

MAX_DIM = 32


@dataclass(frozen=True)
class Robot:
    """A robot layout; fields as in the YAML above.

    Raises:
        ConfigError: If a field contradicts another or is out of range.
    """

    name: str
    state_dim: int
    action_dim: int
    cameras: dict[str, str]
    control_hz: float | None
    description: str = ""
    delta_actions: tuple[int, ...] = ()
    joint_convention: str = "none"
    default_prompt: str | None = None
    asset_id: str | None = None
    action_names: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        self._check_dims()
        self._check_cameras()
        convention = CONVENTIONS.get(self.joint_convention)
        self._expect(convention is not None, "joint_convention", f"one of {', '.join(CONVENTIONS)}")
        least = convention.dims if convention is not None else 0
        self._expect(min(self.state_dim, self.action_dim) >= least, "joint_convention", f"{least} dimensions or more")

    @property
    def action_labels(self) -> list[str]:
        """What to call each action dimension: its name, or its number where the layout names none."""
        return list(self.action_names) or [f"action {place}" for place in range(self.action_dim)]

    def _check_dims(self) -> None:
        for name in ("state_dim", "action_dim"):
            value = getattr(self, name)
            self._expect(type(value) is int and 1 <= value <= MAX_DIM, name, f"a whole number from 1 to {MAX_DIM}")
        rate = self.control_hz
        positive = isinstance(rate, (int, float)) and not isinstance(rate, bool) and rate > 0
        self._expect(rate is None or positive, "control_hz", "actions per second, > 0")
        runs = self.delta_actions
        self._expect(all(type(n) is int and n != 0 for n in runs), "delta_actions", "whole numbers other than 0")
        covered = sum(map(abs, runs))
        self._expect(
            covered <= min(self.state_dim, self.action_dim), "delta_actions", "no more dims than the state has"
        )
        self._expect(len(self.action_names) in (0, self.action_dim), "action_names", f"{self.action_dim} names")

    def _check_cameras(self) -> None:
        slots = list(self.cameras.values())
        self._expect(
            bool(slots) and set(slots) <= set(SLOTS), "cameras", f"names mapped to slots of {', '.join(SLOTS)}"
        )
        self._expect(len(set(slots)) == len(slots), "cameras", "a slot of its own for each camera")

    def _expect(self, condition: bool, name: str, expected: str) -> None:
        if not condition:
            raise ConfigError(f"robot {self.name}: {name} is {getattr(self, name)!r}, expected {expected}")


def robot_names() -> list[str]:
    """The layouts that come with the package."""
    return sorted(entry.name[: -len(".yaml")] for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def load_robot(name_or_path: str | Path) -> Robot:
    """Reads a robot layout.

    Args:
        name_or_path: A name of `robot_names`, or the path of a .yaml file.

    Raises:
        ConfigError: If there is no such robot or its file is wrong.
    """
    if Path(name_or_path).suffix in (".yaml", ".yml"):
        return _parse_yaml(_read(Path(name_or_path)), str(name_or_path))
    if str(name_or_path) not in robot_names():
        near = difflib.get_close_matches(str(name_or_path), robot_names(), n=1, cutoff=0.0)
        raise ConfigError(
            f"robot {str(name_or_path)!r} is not known; did you mean {near[0]}? Known are {', '.join(robot_names())}; "
            "for your own give the path of a .yaml file"
        )
    return _parse_yaml((_folder() / f"{name_or_path}.yaml").read_text(), f"robot {name_or_path}")


def _folder() -> Any:
    return resources.files("pi0_edge.processing") / "robots"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the robot layout {path} cannot be read ({error})") from error


def parse_robot(content: Mapping[str, Any], origin: str) -> Robot:
    """A robot layout from the fields of its file.

    Raises:
        ConfigError: If a field is unknown, missing or wrong; the message starts with `origin`.
    """
    known = [f.name for f in dataclasses.fields(Robot)]
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{origin}: {key!r} is not a field of a robot layout; did you mean {near}?")
    absent = [name for name in _required() if name not in content]
    if absent:
        raise ConfigError(f"{origin} lacks {', '.join(absent)}; expected all of {', '.join(_required())}")
    for name, kind, described in (("cameras", dict, "a mapping"), ("delta_actions", list, "a list")):
        if not isinstance(content.get(name, kind()), kind):
            raise ConfigError(f"{origin}: {name} is {content[name]!r}, expected {described}")
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    return Robot(**fields)


def _parse_yaml(text: str, origin: str) -> Robot:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{origin} holds a {type(content).__name__}, expected a mapping with {', '.join(_required())}"
        )
    return parse_robot(content, origin)


def _required() -> list[str]:
    required = [f for f in dataclasses.fields(Robot) if f.default is dataclasses.MISSING]
    return [f.name for f in required if f.default_factory is dataclasses.MISSING]
