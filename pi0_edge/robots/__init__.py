"""Robots as data: one YAML file describes a robot to the policy and to the bridge alike.

The policy reads cameras, dimensions and processing from it; the bridge and the firmware read joints, limits and rates.
`load_robot` takes the name of a robot that comes with the project, or the path of a user's own file; `description`
documents every field. Nothing here needs numpy or torch.
"""

from pi0_edge.robots.camera_sources import CameraSettings, load_camera_file
from pi0_edge.robots.description import (
    CONVENTION_DIMS,
    MAX_DIM,
    SLOTS,
    UNITS,
    Joint,
    Robot,
    place_of_slot,
    slot_of_place,
)
from pi0_edge.robots.files import load_robot, parse_robot, robot_file, robot_names
from pi0_edge.robots.latency_limits import LatencyLimits
from pi0_edge.robots.servos import MODELS, Servo, ServoBus, ServoModel

__all__ = [
    "CONVENTION_DIMS",
    "MAX_DIM",
    "MODELS",
    "SLOTS",
    "UNITS",
    "CameraSettings",
    "Joint",
    "LatencyLimits",
    "Robot",
    "Servo",
    "ServoBus",
    "ServoModel",
    "load_camera_file",
    "load_robot",
    "parse_robot",
    "place_of_slot",
    "robot_file",
    "robot_names",
    "slot_of_place",
]
