"""openpi's messages: any bytes are a value that msgpack reads too, and a request or a refusal."""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import msgpack
import numpy as np

from pi0_edge.errors import ObservationError
from pi0_edge.robots import Robot, load_robot
from pi0_edge.serving.openpi.encoding import decode
from pi0_edge.serving.openpi.observations import read_request

ROBOTS = ("aloha_sim", "droid", "libero", "so101")


@cache
def robot(name: str) -> Robot:
    """One of the robots; reading its file takes longer than a message."""
    return load_robot(name)


def check(data: bytes) -> None:
    """Raises where the decoder does anything but refuse, or takes something else for what msgpack reads.

    The first byte chooses the robot, the others are the message.
    """
    name, message = ROBOTS[data[0] % len(ROBOTS)] if data else ROBOTS[0], data[1:]
    try:
        value = decode(message)
    except ObservationError:
        return
    assert same(value, msgpack.unpackb(message, strict_map_key=False)), value
    try:
        request = read_request(message, robot(name))
    except ObservationError:
        return
    observation = request.observation
    assert observation.images and np.shape(observation.state) == (robot(name).state_dim,)
    for camera, image in observation.images.items():
        assert camera in robot(name).cameras and image.dtype == np.uint8 and image.shape[2:] == (3,)


def same(ours: Any, of_msgpack: Any) -> bool:
    """Whether both readers found the same."""
    if isinstance(ours, np.ndarray):
        return ours.dtype == bool or ours.tobytes() == of_msgpack[b"data"]
    if isinstance(of_msgpack, dict) and b"__ndarray__" in of_msgpack:
        return of_msgpack[b"data"].decode("utf-32-le").rstrip("\0") == ours
    if isinstance(of_msgpack, dict) and b"__npgeneric__" in of_msgpack:
        return same(ours, of_msgpack[b"data"])
    if isinstance(ours, dict):
        return list(ours) == list(of_msgpack) and all(same(ours[key], of_msgpack[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(of_msgpack) and all(map(same, ours, of_msgpack))
    if isinstance(ours, float):
        return struct.pack("d", ours) == struct.pack("d", of_msgpack)
    return type(of_msgpack) is bytes if isinstance(ours, memoryview) else ours == of_msgpack
