"""Robot files: found by name or path, read from YAML, and every mistake in them explained."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pi0_edge.errors import ConfigError
from pi0_edge.robots.camera_sources import mistakes_in_camera_sources, parse_camera_sources
from pi0_edge.robots.description import Joint, Robot
from pi0_edge.robots.latency_limits import LatencyLimits
from pi0_edge.robots.servos import Servo, ServoBus

_FOLDER = Path(__file__).parent
_SUFFIXES = (".yaml", ".yml")
_REQUIRED = ("name", "control_hz")
_DIMS = ("state_dim", "action_dim")
_KINDS = {
    "cameras": (dict, "a mapping"),
    "camera_aliases": (dict, "a mapping"),
    "delta_actions": (list, "a list"),
    "action_names": (list, "a list"),
    "joints": (list, "a list of joints, or the name of a robot whose joints they are"),
    "servo_bus": (dict, "a mapping"),
    "servos": (list, "a list of servos"),
    "latency": (dict, "a mapping"),
}
_MAY_BE_NULL = ("servo_bus", "latency")


def robot_names() -> list[str]:
    """The robots that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def robot_file(name_or_path: str | Path) -> Path:
    """The file of a robot.

    Args:
        name_or_path: A name of `robot_names`, or the path of a .yaml file.

    Raises:
        ConfigError: If there is no such robot.
    """
    if Path(name_or_path).suffix in _SUFFIXES:
        return Path(name_or_path)
    known = robot_names()
    if str(name_or_path) not in known:
        near = difflib.get_close_matches(str(name_or_path), known, n=1, cutoff=0.0)
        raise ConfigError(
            f"robot {str(name_or_path)!r} is not known; did you mean {near[0]}? Known are {', '.join(known)}; "
            "for your own give the path of a .yaml file"
        )
    return _FOLDER / f"{name_or_path}.yaml"


def load_robot(name_or_path: str | Path) -> Robot:
    """Reads a robot.

    Args:
        name_or_path: A name of `robot_names`, or the path of a .yaml file.

    Raises:
        ConfigError: If there is no such robot or its file is wrong; the message lists every mistake.
    """
    path = robot_file(name_or_path)
    origin = f"robot {name_or_path}" if path.parent == _FOLDER else str(name_or_path)
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the robot file {path} cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        expected = f"a mapping with {', '.join((*_REQUIRED, *_DIMS))}"
        raise ConfigError(f"{origin} holds a {type(content).__name__}, expected {expected}")
    return parse_robot(content, origin)


def parse_robot(content: Mapping[str, Any], origin: str) -> Robot:
    """A robot from the fields of its file, or of `dataclasses.asdict(robot)`.

    Raises:
        ConfigError: If a field is unknown, missing or wrong; the message starts with `origin` and lists every mistake.
    """
    found = list(_mistakes_in_structure(content))
    if found:
        raise ConfigError(_listed(origin, found))
    fields = _with_tuples(content)
    fields["joints"] = _joints(content.get("joints", ()))
    bus = content.get("servo_bus")
    fields["servo_bus"] = None if bus is None else ServoBus(**_with_tuples(bus))
    fields["servos"] = tuple(Servo(**_with_tuples(servo)) for servo in content.get("servos", ()))
    latency = content.get("latency")
    fields["latency"] = None if latency is None else LatencyLimits(**latency)
    fields["camera_sources"] = parse_camera_sources(content.get("camera_sources", {}), origin)
    for dim in _DIMS:
        fields.setdefault(dim, len(fields["joints"]))
    fields.setdefault("cameras", {})
    try:
        return Robot(**fields)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from error


def _mistakes_in_structure(content: Mapping[str, Any]) -> Iterator[str]:
    yield from _unknown(content, Robot, "")
    joints = content.get("joints")
    required = _REQUIRED if joints else (*_REQUIRED, *_DIMS)
    absent = [name for name in required if name not in content]
    if absent:
        yield f"lacks {', '.join(absent)}; expected all of {', '.join(required)}"
    for name, (kind, described) in _KINDS.items():
        value = content.get(name, kind())
        if value is None and name in _MAY_BE_NULL:
            continue
        if not isinstance(value, (kind, tuple) if kind is list else kind) and not (
            name == "joints" and isinstance(value, str)
        ):
            yield f"{name} is {value!r}, expected {described}"
    yield from mistakes_in_camera_sources(content.get("camera_sources", {}))
    if isinstance(joints, str):
        yield from _mistakes_in_reference(joints)
    elif isinstance(joints, (list, tuple)):
        yield from _mistakes_in_entries("joints", joints, Joint)
    if isinstance(content.get("servos"), (list, tuple)):
        yield from _mistakes_in_entries("servos", content["servos"], Servo)
    if isinstance(content.get("servo_bus"), Mapping):
        yield from _mistakes_in_entry("servo_bus", content["servo_bus"], ServoBus)
    if isinstance(content.get("latency"), Mapping):
        yield from _mistakes_in_entry("latency", content["latency"], LatencyLimits)


def _mistakes_in_entries(name: str, entries: Sequence[Any], kind: type[Joint] | type[Servo]) -> Iterator[str]:
    for index, entry in enumerate(entries):
        yield from _mistakes_in_entry(f"{name}[{index}]", entry, kind)


def _mistakes_in_entry(where: str, entry: Any, kind: type) -> Iterator[str]:
    required = [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]
    if not isinstance(entry, Mapping):
        yield f"{where} is {entry!r}, expected a mapping with {', '.join(required)}"
        return
    yield from _unknown(entry, kind, f"{where}: ")
    if lacking := [name for name in required if name not in entry]:
        yield f"{where} lacks {' and '.join(lacking)}"


def _mistakes_in_reference(name: str) -> Iterator[str]:
    try:
        joints = yaml.safe_load(robot_file(name).read_text()).get("joints")
    except ConfigError as error:
        yield f"joints: {error}"
        return
    if not isinstance(joints, list):
        yield f"joints is {name!r}, but that robot lists none of its own"


def _unknown(content: Mapping[str, Any], kind: type, where: str) -> Iterator[str]:
    known = [field.name for field in dataclasses.fields(kind)]
    names = {Robot: "a robot", Joint: "a joint", Servo: "a servo", ServoBus: "servo_bus", LatencyLimits: "latency"}
    what = names[kind]
    elsewhere = "; settings of the policy, such as prompt_style, go into a SIZES file" if kind is Robot else ""
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            advice = f"did you mean {near[0]}?" if near else f"expected {', '.join(known)}{elsewhere}"
            yield f"{where}{key!r} is not a field of {what}; {advice}"


def _joints(entries: Any) -> tuple[Joint, ...]:
    if isinstance(entries, str):
        entries = yaml.safe_load(robot_file(entries).read_text())["joints"]
    return tuple(Joint(**_with_tuples(entry)) for entry in entries)


def _with_tuples(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}


def _listed(origin: str, found: list[str]) -> str:
    if len(found) == 1:
        return f"{origin}: {found[0]}"
    return f"{origin}: {len(found)} mistakes:" + "".join(f"\n  {line}" for line in found)
