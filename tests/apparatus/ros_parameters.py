"""The settings of the ROS 2 node from parameters, where there is no ROS."""

from __future__ import annotations

from typing import Any

from pi0_edge_ros.settings import CAMERA_PARAMETERS, PARAMETERS, Settings, read_settings

GIVEN = {"joints": ["a", "b"], "cameras": ["top"]}


def settings(**changes: Any) -> Settings:
    """The defaults with these changes; two underscores stand for the dot in a name."""
    values = {parameter.name: parameter.default for parameter in PARAMETERS} | GIVEN | changes
    cameras = {f"camera.{name}.{p.name}": p.default for name in values["cameras"] for p in CAMERA_PARAMETERS}
    return read_settings((cameras | {name.replace("__", "."): value for name, value in values.items()}).__getitem__)
