"""The file of a workspace, and every mistake in it explained.

A workspace is a YAML file with these fields; lengths in metres, in the world frame of the model::

    robot: aloha                  # the robot that the bridge was started with
    model: scene.xml              # MJCF, or URDF (.urdf); relative to this file
    joints:                       # robot joint -> model joint, or a list where one joint moves several
      left_waist: {joint: vx300s_left/waist}
      left_gripper:               # position in the model = scale * position + offset; a negative scale turns the sign
        - {joint: vx300s_left/left_finger, scale: 0.036, offset: 0.021}
        - {joint: vx300s_left/right_finger, scale: -0.036, offset: -0.021}
    held: {}                      # optional: model joint -> position, for joints that the robot does not move
    frames:                       # points of the robot, `offset` from a body (in URDF a link) or a site, in its frame
      left_hand: {body: vx300s_left/gripper_link, offset: [0.1, 0, 0], radius: 0.03}
    margin: 0.01                  # optional: kept from every face
    allowed:                      # a frame must lie in one of the boxes that name it
      bench: {min: [-0.5, 0.2, 0.02], max: [0.5, 0.9, 0.6], frames: [left_hand]}
    forbidden:                    # and in none of these
      laptop: {min: [0.3, 0.7, 0.0], max: [0.5, 0.9, 0.3], frames: [left_hand]}
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pi0_edge.errors import ConfigError

_MARGIN = 0.01
_FIELDS = ("robot", "model", "joints", "held", "frames", "margin", "allowed", "forbidden")
_REQUIRED = ("robot", "model", "joints", "frames")
_MAPPINGS = ("joints", "held", "frames", "allowed", "forbidden")


@dataclass(frozen=True)
class ModelJoint:
    """A joint of the model that a joint of the robot moves: model position = scale * robot position + offset."""

    robot_joint: str
    joint: str
    scale: float
    offset: float


@dataclass(frozen=True)
class Frame:
    """A point of the robot, and the radius of the ball around it that must stay where it may be; metres.

    Attributes:
        kind: body or site.
        of: Its name in the model.
        offset: Of the point, in the frame of the body or site.
    """

    name: str
    kind: str
    of: str
    offset: tuple[float, float, float]
    radius: float


@dataclass(frozen=True)
class Box:
    """A box along the axes of the model's world, in metres, for the frames that it names."""

    name: str
    lowest: tuple[float, float, float]
    highest: tuple[float, float, float]
    frames: tuple[str, ...]


@dataclass(frozen=True)
class WorkspaceSettings:
    """A file of a workspace, as it says it."""

    path: Path
    robot: str
    model: Path
    joints: tuple[ModelJoint, ...]
    held: Mapping[str, float]
    frames: tuple[Frame, ...]
    margin: float
    allowed: tuple[Box, ...]
    forbidden: tuple[Box, ...]


def load_settings(path: Path, robot: str, joints: Collection[str]) -> WorkspaceSettings:
    """Reads the file of a workspace.

    Args:
        path: The file.
        robot: Name of the robot that the bridge drives.
        joints: Names of its joints.

    Raises:
        ConfigError: If the file cannot be read or is wrong; the message lists every mistake.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the workspace file {path} cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        found = type(content).__name__
        raise ConfigError(f"{path} holds a {found}, expected a mapping with {', '.join(_REQUIRED)}")
    check(path, _mistakes(content, robot, joints))
    return _settings(path, content)


def check(path: Path, mistakes: Iterator[str] | Collection[str]) -> None:
    """Passes where there is no mistake.

    Raises:
        ConfigError: Naming all of them.
    """
    found = list(mistakes)
    if len(found) == 1:
        raise ConfigError(f"{path}: {found[0]}")
    if found:
        raise ConfigError(f"{path}: {len(found)} mistakes:" + "".join(f"\n  {line}" for line in found))


def advice(name: object, known: Collection[str]) -> str:
    """The known name that is nearest, or all of them; what has no name is left out."""
    known = [one for one in known if one]
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known) or 'none'}"


def _mistakes(content: Mapping[str, Any], robot: str, joints: Collection[str]) -> Iterator[str]:
    for key in content:
        if key not in _FIELDS:
            yield f"{key!r} is not a field of a workspace; {advice(key, _FIELDS)}"
    if absent := [name for name in _REQUIRED if name not in content]:
        yield f"lacks {', '.join(absent)}"
    if content.get("robot", robot) != robot:
        yield f"robot is {content['robot']!r}, but the bridge drives {robot!r}; use the workspace of this robot"
    if not isinstance(content.get("model", ""), str):
        yield f"model is {content['model']!r}, expected the path of an MJCF or URDF file"
    for name in _MAPPINGS:
        if not isinstance(content.get(name, {}), Mapping):
            yield f"{name} is {content[name]!r}, expected a mapping"
            return
    if not _is_number(content.get("margin", _MARGIN)) or content.get("margin", _MARGIN) < 0:
        yield f"margin is {content['margin']!r}, expected metres, 0 or more"
    yield from _mistakes_in_joints(content.get("joints", {}), joints)
    yield from _mistakes_in_held(content.get("held", {}), content.get("joints", {}))
    frames = content.get("frames", {})
    if "frames" in content and not frames:
        yield "frames is empty; name at least one point of the robot"
    for name, entry in frames.items():
        yield from _mistakes_in_frame(f"frames: {name}", entry)
    if not content.get("allowed") and not content.get("forbidden"):
        yield "allowed and forbidden are both empty; give at least one box"
    for kind in ("allowed", "forbidden"):
        for name, entry in content.get(kind, {}).items():
            yield from _mistakes_in_box(f"{kind}: {name}", entry, frames)
    boxed = {frame for kind in ("allowed", "forbidden") for frame in _named_frames(content.get(kind, {}))}
    if unused := [str(name) for name in frames if name not in boxed]:
        yield f"no box names {', '.join(unused)}; name each frame in a box, or take it out"


def _named_frames(boxes: Mapping[str, Any]) -> Iterator[Any]:
    for entry in boxes.values():
        if isinstance(entry, Mapping) and isinstance(entry.get("frames"), list):
            yield from entry["frames"]


def _mistakes_in_joints(entries: Mapping[str, Any], known: Collection[str]) -> Iterator[str]:
    moved: dict[Any, str] = {}
    for name, listed in entries.items():
        if name not in known:
            yield f"joints: {name!r} is not a joint of the robot; {advice(name, known)}"
        for entry in listed if isinstance(listed, list) else [listed]:
            where = f"joints: {name}"
            yield from _mistakes_in_fields(where, entry, ("joint",), ("scale", "offset"))
            if not isinstance(entry, Mapping):
                continue
            for key in ("scale", "offset"):
                if not _is_number(entry.get(key, 1.0)):
                    yield f"{where}: {key} is {entry[key]!r}, expected a number"
            if entry.get("scale", 1.0) == 0:
                yield f"{where}: scale is 0, so that nothing would move; expected another number"
            joint = entry.get("joint")
            if joint in moved:
                yield f"{where}: {joint} is moved by {moved[joint]} already"
            moved[joint] = name


def _mistakes_in_held(held: Mapping[str, Any], joints: Mapping[str, Any]) -> Iterator[str]:
    for name, position in held.items():
        if not _is_number(position):
            yield f"held: {name} is {position!r}, expected a number"
    for robot_joint, listed in joints.items():
        for entry in listed if isinstance(listed, list) else [listed]:
            if isinstance(entry, Mapping) and entry.get("joint") in held:
                yield f"held: {entry['joint']} is moved by {robot_joint}; take it out of held or of joints"


def _mistakes_in_frame(where: str, entry: Any) -> Iterator[str]:
    yield from _mistakes_in_fields(where, entry, (), ("body", "site", "offset", "radius"))
    if not isinstance(entry, Mapping):
        return
    if ("body" in entry) == ("site" in entry):
        yield f"{where}: give either body or site, the name in the model"
    if not _is_point(entry.get("offset", [0, 0, 0])):
        yield f"{where}: offset is {entry['offset']!r}, expected [x, y, z] in metres"
    if not _is_number(entry.get("radius", 0.0)) or entry.get("radius", 0.0) < 0:
        yield f"{where}: radius is {entry['radius']!r}, expected metres, 0 or more"


def _mistakes_in_box(where: str, entry: Any, frames: Mapping[str, Any]) -> Iterator[str]:
    yield from _mistakes_in_fields(where, entry, ("min", "max", "frames"), ())
    if not isinstance(entry, Mapping):
        return
    corners = [entry.get(key) for key in ("min", "max")]
    wrong = [key for key in ("min", "max") if key in entry and not _is_point(entry[key])]
    for key in wrong:
        yield f"{where}: {key} is {entry[key]!r}, expected [x, y, z] in metres"
    if not wrong and None not in corners:
        lowest, highest = corners
        for axis, low, high in zip("xyz", lowest, highest, strict=True):  # pyright: ignore[reportArgumentType]
            if low >= high:
                yield f"{where}: {axis} goes from {low:g} to {high:g}, expected min below max"
    named = entry.get("frames", [])
    if not isinstance(named, list) or ("frames" in entry and not named):
        yield f"{where}: frames is {named!r}, expected a list of frames"
        return
    for name in named:
        if name not in frames:
            yield f"{where}: {name!r} is not a frame; {advice(name, [str(frame) for frame in frames])}"


def _mistakes_in_fields(where: str, entry: Any, required: tuple[str, ...], optional: tuple[str, ...]) -> Iterator[str]:
    fields = (*required, *optional)
    if not isinstance(entry, Mapping):
        yield f"{where} is {entry!r}, expected a mapping with {', '.join(fields)}"
        return
    for key in entry:
        if key not in fields:
            yield f"{where}: {key!r} is not a field; {advice(key, fields)}"
    if absent := [key for key in required if key not in entry]:
        yield f"{where} lacks {' and '.join(absent)}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_point(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


def _settings(path: Path, content: Mapping[str, Any]) -> WorkspaceSettings:
    return WorkspaceSettings(
        path=path,
        robot=content["robot"],
        model=path.parent / content["model"],
        joints=tuple(
            ModelJoint(name, entry["joint"], float(entry.get("scale", 1.0)), float(entry.get("offset", 0.0)))
            for name, listed in content["joints"].items()
            for entry in (listed if isinstance(listed, list) else [listed])
        ),
        held=dict(content.get("held", {})),
        frames=tuple(
            Frame(
                name=name,
                kind="body" if "body" in entry else "site",
                of=entry.get("body", entry.get("site")),
                offset=tuple(entry.get("offset", (0.0, 0.0, 0.0))),
                radius=float(entry.get("radius", 0.0)),
            )
            for name, entry in content["frames"].items()
        ),
        margin=float(content.get("margin", _MARGIN)),
        allowed=_boxes(content.get("allowed", {})),
        forbidden=_boxes(content.get("forbidden", {})),
    )


def _boxes(entries: Mapping[str, Any]) -> tuple[Box, ...]:
    return tuple(
        Box(name, tuple(entry["min"]), tuple(entry["max"]), tuple(entry["frames"])) for name, entry in entries.items()
    )
