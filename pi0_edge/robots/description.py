"""What a robot is: joints with their limits, cameras, rates, and how its state and actions map to π0's.

A robot is a YAML file with these fields::

    name: my_arm
    description: One line.        # optional
    control_hz: 20                # actions per second; null where it is not known (LeRobot does not record it)
    servo_hz: 200                 # optional: steps per second of the firmware between two actions; default 250
    joints:                       # optional: in the order of the actions; the name of a robot takes over its joints
      - {name: shoulder, unit: rad, position: [-1.8, 1.8], velocity: 2.0, acceleration: 20.0, home: 0.0,
         resolution: 1.0e-4}
      - {name: gripper, unit: ratio, position: [0, 1], velocity: 5.0, acceleration: 100.0, home: 0.0,
         resolution: 1.0e-4, closed: 0, open: 1}
    zero_pose: Upper arm upright. # optional: how the arm stands with every angle at 0, for who calibrates it
    cameras: {front: base_0_rgb, wrist: left_wrist_0_rgb}  # camera -> slot of π0; a policy needs at least one camera
    camera_aliases: {top: front}  # optional: other name -> camera; an observation may have either
    camera_sources: {...}         # optional: what delivers their images; see `pi0_edge.robots.camera_sources`
    state_dim: 2                  # optional where joints are listed; padded with zeros to the network's width, 32 in π0
    action_dim: 2                 # optional where joints are listed
    action_names: [...]           # optional: one per action dimension; default the names of the joints
    delta_actions: [1, -1]        # optional: one dimension relative to the state, one absolute; default all absolute
    joint_convention: none        # optional: a transform of `pi0_edge.processing.joint_conventions`
    default_prompt: null          # optional: used where an observation has none
    asset_id: ur5e                # optional: statistics of this robot in openpi's base checkpoints
    latency: {p99_ms: 180}        # optional: how late chunks may be; see `pi0_edge.robots.latency_limits`
    servo_bus: {...}              # optional, with servos: what moves the joints, see `pi0_edge.robots.servos`
    servos: [...]

`position`, `home`, `resolution`, `closed` and `open` are in the joint's unit (rad, m, or ratio from 0 to 1), `velocity`
in unit/s, `acceleration` in unit/s². One count of a setpoint on the serial link is `resolution`. `closed` and `open`
say which end of a gripper's range is which, and `positive` which way an angle grows, in words. The limits of a joint
are given together or not at all: without them a policy can use the robot, and the bridge refuses it.

A joint with servos has guards, which the firmware compiles in: the arm stops where the joint is farther than
`following_error` (its unit) from where it should be, draws more than `current` ampere, or is hotter than `temperature`
degrees Celsius. 0 is no guard; that is right for the following error of a gripper, which closes on things.

π0 was pretrained with three cameras, which have the slots base_0_rgb, left_wrist_0_rgb and right_wrist_0_rgb. A policy
that was fine-tuned with more takes them in the slots camera_3, camera_4 and so on, counted from 0: each is 256 more
image tokens, in this order. How many dimensions there may be depends on the checkpoint: as its action projection has.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pi0_edge.errors import ConfigError
from pi0_edge.robots.camera_sources import CameraSettings, mistakes_among_cameras
from pi0_edge.robots.latency_limits import LatencyLimits
from pi0_edge.robots.servos import Servo, ServoBus, mistakes_in_servos

SLOTS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
"""π0's three camera slots, in the order of their image tokens; `slot_of_place` names further ones."""

MAX_DIM = 32
"""Most actions of a robot that a bridge drives: a setpoint on the serial link has no room for more."""

UNITS = ("rad", "m", "ratio")

CONVENTION_DIMS = {"none": 0, "aloha_to_pi": 14}
"""Joint conventions by name, and how many dimensions state and actions must have at least."""

_FURTHER_SLOT = re.compile(r"camera_(\d{1,2})")

_LIMITS = ("position", "velocity", "acceleration", "home", "resolution")
_GUARDS = ("following_error", "current", "temperature")


def slot_of_place(place: int) -> str:
    """The slot at a place in the order of the image tokens, counted from 0: one of `SLOTS`, or a further one."""
    return SLOTS[place] if place < len(SLOTS) else f"camera_{place}"


def place_of_slot(slot: object) -> int | None:
    """The inverse of `slot_of_place`; None for what is no slot."""
    if slot in SLOTS:
        return SLOTS.index(str(slot))
    further = _FURTHER_SLOT.fullmatch(slot) if isinstance(slot, str) else None
    place = -1 if further is None else int(further[1])
    return place if place >= len(SLOTS) and slot == slot_of_place(place) else None


@dataclass(frozen=True)
class Joint:
    """One joint; numbers in its unit, unit/s or unit/s².

    Attributes:
        name: Identifier of the joint, unique in its robot.
        unit: rad, m or ratio.
        position: Smallest and largest position.
        velocity: Largest speed.
        acceleration: Largest acceleration.
        home: Where the firmware takes the joint to be after a reset.
        resolution: How much of the unit one count of a setpoint is.
        following_error: Largest distance from the commanded position; 0 where the firmware does not watch it.
        current: Largest current, A; 0 where the firmware does not watch it.
        temperature: Highest temperature of its servos, degrees Celsius; 0 where the firmware does not watch it.
        closed: Position of a closed gripper.
        open: Position of an open gripper.
        positive: Which way its angle grows, in words.
    """

    name: str
    unit: str
    position: tuple[float, float] | None = None
    velocity: float | None = None
    acceleration: float | None = None
    home: float | None = None
    resolution: float | None = None
    following_error: float | None = None
    current: float | None = None
    temperature: float | None = None
    closed: float | None = None
    open: float | None = None
    positive: str | None = None

    @property
    def has_limits(self) -> bool:
        """Whether the firmware can protect it."""
        return all(getattr(self, name) is not None for name in _LIMITS)

    def mistakes(self) -> Iterator[str]:
        """What is wrong with it, each in words."""
        if not (isinstance(self.name, str) and self.name.isascii() and self.name.isidentifier()):
            yield f"name is {self.name!r}, expected letters, digits and underscores"
        if self.unit not in UNITS:
            yield f"unit is {self.unit!r}, expected one of {', '.join(UNITS)}"
        if not isinstance(self.positive, (str, type(None))):
            yield f"positive is {self.positive!r}, expected text"
        wrong = [
            name for name in (*_LIMITS[1:], *_GUARDS, "closed", "open") if not _is_number_or_none(getattr(self, name))
        ]
        for name in wrong:
            yield f"{name} is {getattr(self, name)!r}, expected a finite number"
        if self.position is not None and not _is_range(self.position):
            yield f"position is {self.position!r}, expected [minimum, maximum] with minimum < maximum"
        elif not wrong:
            yield from self._contradictions()

    def _contradictions(self) -> Iterator[str]:
        given = [name for name in _LIMITS if getattr(self, name) is not None]
        if given and len(given) < len(_LIMITS):
            absent = [name for name in _LIMITS if name not in given]
            yield f"lacks {', '.join(absent)}; give all of {', '.join(_LIMITS)}, or none of them"
        for name in ("velocity", "acceleration", "resolution"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                yield f"{name} is {value:g}, expected a number above zero"
        for name in _GUARDS:
            value = getattr(self, name)
            if value is not None and value < 0:
                yield f"{name} is {value:g}, expected a number above zero, or 0 for no guard"
        if (self.closed is None) != (self.open is None):
            yield "gives one of closed and open, expected both or neither"
        if self.closed is not None and self.closed == self.open:
            yield f"closed and open are both {self.closed:g}, expected two ends of the range"
        if self.position is not None:
            lowest, highest = self.position
            for name in ("home", "closed", "open"):
                value = getattr(self, name)
                if value is not None and not lowest <= value <= highest:
                    yield f"{name} is {value:g}, expected a position from {lowest:g} to {highest:g}"


@dataclass(frozen=True)
class Robot:
    """A robot; fields as in the YAML above.

    Raises:
        ConfigError: If fields contradict each other or are out of range; the message lists every mistake.
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
    action_names: tuple[str, ...] = ()
    joints: tuple[Joint, ...] = ()
    servo_hz: int = 250
    camera_aliases: dict[str, str] = field(default_factory=dict)
    servo_bus: ServoBus | None = None
    servos: tuple[Servo, ...] = ()
    zero_pose: str = ""
    camera_sources: dict[str, CameraSettings] = field(default_factory=dict)
    latency: LatencyLimits | None = None

    def __post_init__(self) -> None:
        if self.joints and not self.action_names:
            object.__setattr__(self, "action_names", tuple(joint.name for joint in self.joints))
        found = list(self._mistakes())
        if len(found) == 1:
            raise ConfigError(f"robot {self.name}: {found[0]}")
        if found:
            raise ConfigError(f"robot {self.name}: {len(found)} mistakes:" + "".join(f"\n  {line}" for line in found))

    @property
    def action_labels(self) -> list[str]:
        """What to call each action dimension: its name, or its number where the description names none."""
        return list(self.action_names) or [f"action {place}" for place in range(self.action_dim)]

    @property
    def why_not_playable(self) -> str | None:
        """Why a bridge cannot drive it, or None where it can: its actions must be positions of limited joints."""
        if not self.joints:
            return "it lists no joints"
        names = tuple(joint.name for joint in self.joints)
        if self.action_names != names:
            other = [name for name in self.action_names if name not in names] or self.action_names
            return f"its actions are not the positions of its joints ({', '.join(other)})"
        unlimited = [joint.name for joint in self.joints if not joint.has_limits]
        if unlimited:
            return f"no limits are given for {', '.join(unlimited)}"
        if self.control_hz is None:
            return "its control_hz is not known"
        if self.action_dim > MAX_DIM:
            return f"it has {self.action_dim} actions, and a setpoint on the serial link holds at most {MAX_DIM}"
        return None

    def camera(self, name: str) -> str | None:
        """The camera that `name` means: its own name, another one, or its slot. None where there is no such camera."""
        if name in self.cameras:
            return name
        of_slot = {slot: camera for camera, slot in self.cameras.items()}
        return self.camera_aliases.get(name, of_slot.get(name))

    def _mistakes(self) -> Iterator[str]:
        for name in ("name", "description", "zero_pose"):
            if not isinstance(getattr(self, name), str):
                yield self._mistake(name, "text")
        for name in ("default_prompt", "asset_id"):
            if not isinstance(getattr(self, name), (str, type(None))):
                yield self._mistake(name, "text, or null")
        if not all(isinstance(name, str) for name in self.action_names):
            yield self._mistake("action_names", "texts")
        for index, joint in enumerate(self.joints):
            yield from (f"joints[{index}] ({joint.name}): {mistake}" for mistake in joint.mistakes())
        names = [joint.name for joint in self.joints]
        for name in sorted({name for name in names if names.count(name) > 1}, key=str):
            yield f"joints: {name!r} is the name of {names.count(name)} joints, expected a name of its own for each"
        yield from mistakes_in_servos(self.servo_bus, self.servos, {joint.name: joint.unit for joint in self.joints})
        if self.servos:
            yield from self._lacking_guards()
        yield from self._mistakes_in_dims()
        yield from self._mistakes_in_cameras()
        if self.latency is not None:
            yield from (f"latency: {mistake}" for mistake in self.latency.mistakes())
        least = CONVENTION_DIMS.get(self.joint_convention)
        if least is None:
            yield self._mistake("joint_convention", f"one of {', '.join(CONVENTION_DIMS)}")
        elif not self._wrong_dims() and min(self.state_dim, self.action_dim) < least:
            yield self._mistake("joint_convention", f"{least} dimensions or more")

    def _lacking_guards(self) -> Iterator[str]:
        for joint in self.joints:
            lacking = [name for name in _GUARDS if getattr(joint, name) is None]
            if lacking:
                yield f"{joint.name} has servos, but no {', '.join(lacking)}; give a number, or 0 for no guard"

    def _mistakes_in_dims(self) -> Iterator[str]:
        wrong = self._wrong_dims()
        yield from (self._mistake(name, "a whole number from 1 on") for name in wrong)
        if self.control_hz is not None and not (_is_number(self.control_hz) and self.control_hz > 0):
            yield self._mistake("control_hz", "actions per second, > 0")
        if type(self.servo_hz) is not int or self.servo_hz <= 0:
            yield self._mistake("servo_hz", "a whole number of steps per second, > 0")
        if not all(type(run) is int and run != 0 for run in self.delta_actions):
            yield self._mistake("delta_actions", "whole numbers other than 0")
        elif not wrong and sum(map(abs, self.delta_actions)) > min(self.state_dim, self.action_dim):
            yield self._mistake("delta_actions", "no more dims than the state has")
        if not wrong and len(self.action_names) not in (0, self.action_dim):
            yield self._mistake("action_names", f"{self.action_dim} names")

    def _mistakes_in_cameras(self) -> Iterator[str]:
        slots = list(self.cameras.values())
        if not (slots or self.joints) or any(place_of_slot(slot) is None for slot in slots):
            yield self._mistake("cameras", f"names mapped to slots of {', '.join(SLOTS)}, camera_3, camera_4 …")
        elif len(set(slots)) != len(slots):
            yield self._mistake("cameras", "a slot of its own for each camera")
        aliases = self.camera_aliases
        if not isinstance(aliases, dict) or not all(name in list(self.cameras) for name in aliases.values()):
            yield self._mistake("camera_aliases", "other names mapped to cameras of the robot")
        elif any(name in self.cameras for name in aliases):
            yield self._mistake("camera_aliases", "names that no camera has")
        else:
            yield from mistakes_among_cameras(self.camera_sources, self.cameras, aliases)

    def _wrong_dims(self) -> list[str]:
        dims = ("state_dim", "action_dim")
        return [name for name in dims if type(value := getattr(self, name)) is not int or value < 1]

    def _mistake(self, name: str, expected: str) -> str:
        return f"{name} is {getattr(self, name)!r}, expected {expected}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_number_or_none(value: object) -> bool:
    return value is None or _is_number(value)


def _is_range(position: object) -> bool:
    if not isinstance(position, tuple) or len(position) != 2 or not all(map(_is_number, position)):
        return False
    return position[0] < position[1]
