"""A calibrated robot as the text of a robot file: what was measured is replaced in place, all else stays as it is.

Comments, order and layout survive because only the values are exchanged, at the places where the YAML parser found
them. The result is read again and compared with the robot that it has to be before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from pi0_edge.errors import ConfigError
from pi0_edge.robots.description import Robot
from pi0_edge.robots.files import parse_robot
from pi0_edge.robots.servos import Servo
from pi0_edge.synced_files import save_synced

_JOINT_FIELDS = ("position", "home")
_SERVO_FIELDS = ("zero", "direction", "counts")

Place = tuple[str | int, ...]


def write_robot(path: Path, text: str) -> None:
    """Writes a robot file, whole or not at all."""
    save_synced(path, text.encode())


def robot_text(text: str, robot: Robot, heading: str) -> str:
    """The text of a robot file with the values of another calibration.

    Args:
        text: Of the file before.
        robot: What it has to describe: as before, but for name, limits and counts.
        heading: Line that becomes the first comment.

    Raises:
        ConfigError: If the file is written in a way in which its values cannot be exchanged.
    """
    if alias := next((token.value for token in yaml.scan(text) if isinstance(token, yaml.AliasToken)), None):
        raise ConfigError(f"the robot file shares values through the anchor {alias!r}; write them out one by one")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    edits = dict(_edit(text, root, place, value) for place, value in _changes(yaml.safe_load(text), robot))
    for (start, end), new in sorted(edits.items(), reverse=True):
        text = text[:start] + new + text[end:]
    text = f"# {heading}\n#\n{text}" if text.startswith("#") else f"# {heading}\n{text}"
    if parse_robot(yaml.safe_load(text), "the calibrated file") != robot:
        raise ConfigError(
            "the values of the robot file cannot be exchanged in place; write it as those of `robot list`"
        )
    return text


def _changes(content: dict[str, Any], robot: Robot) -> Iterator[tuple[Place, Any]]:
    """Which values of a file differ from those of the robot, and what they have to be."""
    if content.get("name") != robot.name:
        yield ("name",), robot.name
    if isinstance(content["joints"], str):
        yield ("joints",), [_without_none(asdict(joint)) for joint in robot.joints]
    else:
        for index, (entry, joint) in enumerate(zip(content["joints"], robot.joints, strict=True)):
            for name in _JOINT_FIELDS:
                value = _plain(getattr(joint, name))
                if value != entry.get(name):
                    yield ("joints", index, name), value
    for index, (entry, servo) in enumerate(zip(content["servos"], robot.servos, strict=True)):
        yield from ((("servos", index, name), value) for name, value in _changed(entry, servo))


def _changed(entry: dict[str, Any], servo: Servo) -> Iterator[tuple[str, Any]]:
    for name in _SERVO_FIELDS:
        value = _plain(getattr(servo, name))
        if value != entry.get(name):
            yield name, value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in fields.items() if value is not None}


def _edit(text: str, node: yaml.Node, place: Place, value: Any) -> tuple[tuple[int, int], str]:
    """Which part of the text to exchange for what, so that the node at a place below `node` has a value."""
    key, rest = place[0], place[1:]
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int):
        return _edit(text, node.value[key], rest, value) if rest else _replace(text, node.value[key], value)
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"the robot file has no place for {key}")
    for name, child in node.value:
        if name.value == key:
            return _edit(text, child, rest, value) if rest else _replace(text, child, value)
    return _insert(node, f"{key}: {_written(value)}")


def _replace(text: str, node: yaml.Node, value: Any) -> tuple[tuple[int, int], str]:
    start, end = node.start_mark.index, node.end_mark.index
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        end = start + len(text[start:end].rstrip())  # the parser counts what follows a block, up to the next entry
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return (start, end), "".join(f"\n  - {_written(entry)}" for entry in value)
    return (start, end), _written(value)


def _insert(node: yaml.MappingNode, entry: str) -> tuple[tuple[int, int], str]:
    """After the last entry of a mapping."""
    last = node.value[-1][1].end_mark.index
    return (last, last), f", {entry}" if node.flow_style else f"\n{' ' * node.start_mark.column}{entry}"


def _written(value: Any) -> str:
    return (
        yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False)
        .removesuffix("...\n")
        .strip()
    )
