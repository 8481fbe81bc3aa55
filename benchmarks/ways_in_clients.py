"""Clients of `benchmarks.ways_in` that run in this interpreter, each as a robot has it; see `ways_in_asking`.

python -m benchmarks.ways_in_clients WAY HOST:PORT CAMERA,... JOINT,...
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.ways_in_asking import PROMPT, answer_blocks, pictures
from pi0_edge.serving.policy_client import PolicyClient, write_observation

JPEG_QUALITY = 90

Asking = tuple[str, Callable[[int], NDArray[np.floating]], int]
"""Name with version, what asks, and the bytes of one observation."""


class _Seen:
    """What `pi0_edge.processing.Observation` holds, without torch, which a robot need not have."""

    def __init__(self, images: dict[str, NDArray[np.uint8]], state: NDArray[np.float64]) -> None:
        self.images, self.state, self.prompt = images, state, PROMPT


def grpc(address: str, cameras: list[str], joints: list[str], jpeg_quality: int | None = None) -> Asking:
    """The client of this SDK."""
    seen: list[Any] = [_Seen(dict(zip(cameras, m, strict=True)), _state(joints)) for m in pictures(len(cameras))]
    client = PolicyClient(address, jpeg_quality=jpeg_quality)
    client.wait_ready(30.0)

    def ask(number: int) -> NDArray[np.floating]:
        chunk = client.infer(seen[number % len(seen)], number, time.monotonic_ns())
        return np.array(chunk.actions, np.float64).reshape(chunk.horizon, chunk.action_dim)

    size = write_observation(seen[0], 1, 2, None, None, jpeg_quality).ByteSize()
    return f"pi0-edge {version('pi0-edge')}, grpcio {version('grpcio')}", ask, size


def grpc_jpeg(address: str, cameras: list[str], joints: list[str]) -> Asking:
    """The same with JPEG, which is encoded and decoded in the time."""
    return grpc(address, cameras, joints, JPEG_QUALITY)


def openpi(address: str, cameras: list[str], joints: list[str], channels_first: bool = False) -> Asking:
    """Openpi's own client. Channels first are a view of the camera's image, as ALOHA's runtime makes it."""
    from openpi_client.msgpack_numpy import packb
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    seen = []
    for moment in pictures(len(cameras)):
        images = [image.transpose(2, 0, 1) if channels_first else image for image in moment]
        seen.append({"images": dict(zip(cameras, images, strict=True)), "state": _state(joints), "prompt": PROMPT})
    host, _, port = address.rpartition(":")
    client = WebsocketClientPolicy(host, int(port))

    def ask(number: int) -> NDArray[np.floating]:
        return client.infer(seen[number % len(seen)])["actions"]

    names = ("openpi-client", "websockets", "msgpack")
    return ", ".join(f"{name} {version(name)}" for name in names), ask, len(packb(seen[0]) or b"")


def openpi_chw(address: str, cameras: list[str], joints: list[str]) -> Asking:
    """The same with channels first."""
    return openpi(address, cameras, joints, channels_first=True)


def bare(address: str, cameras: list[str], joints: list[str]) -> Asking:
    """As many bytes over a TCP socket, and nothing else: what the machine takes for them."""
    contents = [b"".join(image.tobytes() for image in moment) for moment in pictures(len(cameras))]
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(number: int) -> NDArray[np.floating]:
        content = contents[number % len(contents)]
        connection.sendall(len(content).to_bytes(4, "big"))
        connection.sendall(content)
        left = 8192
        while left:
            left -= len(connection.recv(left))
        return np.zeros((1, len(joints)))

    return "a TCP socket", ask, len(contents[0])


CLIENTS: dict[str, Callable[[str, list[str], list[str]], Asking]] = {
    "bare": bare,
    "grpc": grpc,
    "grpc-jpeg": grpc_jpeg,
    "openpi": openpi,
    "openpi-chw": openpi_chw,
}


def _state(joints: list[str]) -> NDArray[np.float64]:
    return np.linspace(-0.1, 0.1, len(joints))


if __name__ == "__main__":
    answer_blocks(*CLIENTS[sys.argv[1]](sys.argv[2], sys.argv[3].split(","), sys.argv[4].split(",")))
