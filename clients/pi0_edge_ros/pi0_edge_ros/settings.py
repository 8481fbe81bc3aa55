"""The parameters of the node, checked before anything is connected."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pi0_edge.errors import ConfigError


class Parameter(NamedTuple):
    """A parameter that the node declares.

    Attributes:
        name: Of the parameter.
        default: Its value where nothing is set; its type is the parameter's.
        description: For `ros2 param describe` and the documentation.
    """

    name: str
    default: Any
    description: str


PARAMETERS = (
    Parameter("server", "127.0.0.1:50051", "host:port of the policy server (pi0-edge serve)"),
    Parameter("server_tls", "", "folder from pi0-edge certificates, where the server asks for a certificate"),
    Parameter("jpeg_quality", 0, "1 to 100: images go to the server as JPEG of this quality; 0: as they are"),
    Parameter("connect_timeout_s", 10.0, "seconds that configure waits for the policy server"),
    Parameter("infer_timeout_s", 5.0, "seconds after which an inference has failed"),
    Parameter("joints", [""], "names of the joints in the joint states and trajectories, as many as the policy's"),
    Parameter("joint_map", [""], "POLICY_NAME=ROS_NAME for every joint that the policy calls otherwise"),
    Parameter("trust_joint_order", False, "take `joints` in the order of the policy's actions where it names none"),
    Parameter("joint_states_topic", "joint_states", "sensor_msgs/JointState"),
    Parameter("cameras", [""], "the policy's cameras that there are; each has parameters camera.NAME.*"),
    Parameter("prompt", "", "what the policy shall do; empty: the policy's default"),
    Parameter("prompt_topic", "~/prompt", "std_msgs/String, replaces the prompt while the node runs"),
    Parameter("trajectory_topic", "joint_trajectory_controller/joint_trajectory", "trajectory_msgs/JointTrajectory"),
    Parameter("control_hz", 0.0, "actions per second, where the policy does not say; 0: the policy says"),
    Parameter("replan_s", 0.5, "seconds between two observations, if the policy is fast enough"),
    Parameter("splice", "auto", "how chunks continue the plan: hold-swap, rtc, trained-rtc, or auto"),
    Parameter("lead_s", 0.02, "actions due sooner than this after a chunk is sent are left out of it"),
    Parameter("max_age_s", 0.3, "images and joint states older than this are refused"),
    Parameter("max_apart_s", 0.2, "an image taken further from the joint state than this is refused"),
    Parameter("max_errors", 3, "inferences that fail in a row until the node goes to inactive"),
    Parameter("bridge", "", "host:port of the bridge whose emergency stop the e-stop service latches; empty: none"),
    Parameter("bridge_tls", "", "folder from pi0-edge certificates, where the bridge asks for a certificate"),
)

CAMERA_PARAMETERS = (
    Parameter("topic", "", "sensor_msgs/Image or CompressedImage; empty: NAME/image_raw, with /compressed if so"),
    Parameter("compressed", False, "whether the topic has CompressedImage (JPEG or PNG)"),
)
"""Of each camera: `camera.NAME.topic`."""

SPLICES = ("auto", "hold-swap", "rtc", "trained-rtc")


class Camera(NamedTuple):
    """Where the images of one of the policy's cameras come from.

    Attributes:
        name: The policy's name of it.
        topic: Of the images.
        compressed: Whether they are JPEG or PNG.
    """

    name: str
    topic: str
    compressed: bool


@dataclass(frozen=True)
class Settings:
    """The values of `PARAMETERS`, in their units; `None` where an empty value means that there is none."""

    server: str
    server_tls: Path | None
    jpeg_quality: int | None
    connect_timeout_s: float
    infer_timeout_s: float
    joints: tuple[str, ...]
    joint_map: dict[str, str]
    trust_joint_order: bool
    joint_states_topic: str
    cameras: tuple[Camera, ...]
    prompt: str
    prompt_topic: str
    trajectory_topic: str
    control_hz: float
    replan_s: float
    splice: str
    lead_s: float
    max_age_s: float
    max_apart_s: float
    max_errors: int
    bridge: str
    bridge_tls: Path | None


def camera_names(values: Sequence[str]) -> list[str]:
    """The names in the parameter `cameras`; ROS has no empty list of texts, an empty text stands for it."""
    return [name for name in values if name]


def read_settings(value: Callable[[str], Any]) -> Settings:
    """Reads and checks all parameters.

    Args:
        value: Gives the value of a parameter by its name.

    Raises:
        ConfigError: If one is not possible; the message names it.
    """
    found = {parameter.name: value(parameter.name) for parameter in PARAMETERS}
    for name in ("connect_timeout_s", "infer_timeout_s", "replan_s", "max_age_s", "max_apart_s"):
        _check(math.isfinite(found[name]) and found[name] > 0, name, found[name], "a time above 0 s")
    for name in ("lead_s", "control_hz"):
        _check(math.isfinite(found[name]) and found[name] >= 0, name, found[name], "0 or more")
    _check(found["max_errors"] >= 1, "max_errors", found["max_errors"], "1 or more")
    _check(0 <= found["jpeg_quality"] <= 100, "jpeg_quality", found["jpeg_quality"], "0, or 1 to 100")
    _check(found["splice"] in SPLICES, "splice", found["splice"], f"one of {', '.join(SPLICES)}")
    for name in ("server", "joint_states_topic", "prompt_topic", "trajectory_topic"):
        _check(bool(found[name]), name, found[name], "a text that is not empty")
    found["joints"] = tuple(name for name in found["joints"] if name)
    _check_names("joints", found["joints"])
    found["joint_map"] = _read_map(found["joint_map"])
    names = camera_names(found["cameras"])
    _check_names("cameras", names)
    found["cameras"] = tuple(_read_camera(name, value) for name in names)
    found["jpeg_quality"] = found["jpeg_quality"] or None
    for name in ("server_tls", "bridge_tls"):
        found[name] = Path(found[name]) if found[name] else None
    return Settings(**found)


def _read_camera(name: str, value: Callable[[str], Any]) -> Camera:
    topic, compressed = (value(f"camera.{name}.{parameter.name}") for parameter in CAMERA_PARAMETERS)
    return Camera(name, topic or f"{name}/image_raw{'/compressed' if compressed else ''}", compressed)


def _read_map(entries: Sequence[str]) -> dict[str, str]:
    pairs = [entry.partition("=") for entry in entries if entry]
    wrong = ["".join(pair) for pair in pairs if not (pair[0] and pair[2])]
    _check(not wrong, "joint_map", ", ".join(wrong), "entries POLICY_NAME=ROS_NAME")
    _check_names("joint_map", [pair[0] for pair in pairs], at_least_one=False)
    return {pair[0]: pair[2] for pair in pairs}


def _check_names(parameter: str, names: Sequence[str], at_least_one: bool = True) -> None:
    _check(bool(names) or not at_least_one, parameter, "empty", "at least one name")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    _check(not twice, parameter, f"a list with {', '.join(twice)} more than once", "each name once")


def _check(fits: bool, parameter: str, found: Any, expected: str) -> None:
    if not fits:
        raise ConfigError(f"parameter {parameter} is {found!r}, expected {expected}".replace("'", ""))
