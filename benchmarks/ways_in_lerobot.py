"""LeRobot's asynchronous client in `benchmarks.ways_in`, as its two threads do it; see `ways_in_asking`.

    python -m benchmarks.ways_in_lerobot lerobot HOST:PORT CAMERA,... JOINT,...

In an interpreter with LeRobot, messages and pieces are those of its own classes. Without it, its dataclasses are
written under their real names into the folder where this runs, and the module with them pickles and unpickles as
LeRobot does. One thread sends observations; the other asks for actions all the time, and makes tensors of them.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "apparatus"))

from absent_torchvision import allow_import
from lerobot_stand_in import CLASSES

from benchmarks.ways_in_asking import HEIGHT, PROMPT, WIDTH, answer_blocks, pictures

PIECE = 2 << 20
"""Bytes of one message of LeRobot's client."""

_REPLY_LIMIT_S = 30.0


class Client:
    """The calls of LeRobot's client, with its classes or with those above."""

    def __init__(self, address: str) -> None:
        try:
            self.name = f"lerobot {version('lerobot')}"
        except PackageNotFoundError:
            self.name = "the messages of LeRobot's client"
            self._stand_in(address)
        else:
            self._stock(address)
        self.replies: queue.Queue[list[Any]] = queue.Queue()

    def _stand_in(self, address: str) -> None:
        from pi0_edge.serving.lerobot_async import wire

        package = Path.cwd() / "stand-in" / "lerobot" / "async_inference"
        package.mkdir(parents=True)
        (package / "helpers.py").write_text(CLASSES)
        sys.path.insert(0, str(package.parents[1]))
        self._helpers = importlib.import_module("lerobot.async_inference.helpers")
        # The stock client unpickles what its server sends: here that is the server that this benchmark started.
        self._pickle = importlib.import_module("pickle")
        channel = grpc.insecure_channel(address, [("grpc.max_receive_message_length", 4 << 20)])
        prefix, write = f"/{wire.SERVICE}/", lambda message: message.SerializeToString()
        empty, actions = wire.Empty.FromString, wire.Actions.FromString
        self._ready: Callable[..., Any] = channel.unary_unary(f"{prefix}Ready", write, empty)
        self._instruct: Callable[..., Any] = channel.unary_unary(f"{prefix}SendPolicyInstructions", write, empty)
        self._send: Callable[..., Any] = channel.stream_unary(f"{prefix}SendObservations", write, empty)
        self._ask: Callable[..., Any] = channel.unary_unary(f"{prefix}GetActions", write, actions)
        self._messages: Any = wire
        self._pieces: Callable[[bytes], Iterator[Any]] = lambda payload: _pieces(payload, wire)

    def _stock(self, address: str) -> None:
        allow_import()
        from lerobot.async_inference import helpers, robot_client  # pyright: ignore[reportMissingImports]
        from lerobot.transport import services_pb2, services_pb2_grpc  # pyright: ignore[reportMissingImports]
        from lerobot.transport.utils import (  # pyright: ignore[reportMissingImports]
            grpc_channel_options,
            send_bytes_in_chunks,
        )

        self._helpers, self._pickle = helpers, robot_client.pickle
        stub = services_pb2_grpc.AsyncInferenceStub(
            grpc.insecure_channel(address, grpc_channel_options(initial_backoff="0.0333s"))
        )
        self._ready, self._instruct = stub.Ready, stub.SendPolicyInstructions
        self._send, self._ask = stub.SendObservations, stub.GetActions
        self._messages = services_pb2
        self._pieces = lambda payload: send_bytes_in_chunks(payload, services_pb2.Observation, silent=True)

    def start(self, features: dict[str, Any]) -> None:
        """Says what the robot is, and asks for actions from now on."""
        self._ready(self._messages.Empty())
        config = self._helpers.RemotePolicyConfig("pi0", "user/model", features, 50)
        self._instruct(self._messages.PolicySetup(data=self._pickle.dumps(config)))
        threading.Thread(target=self._receive, daemon=True).start()

    def bytes_of(self, observation: dict[str, Any]) -> int:
        """Size of the message with an observation."""
        return len(self._pickle.dumps(self._helpers.TimedObservation(0.0, 0, observation, True)))

    def infer(self, observation: dict[str, Any], timestep: int) -> list[Any]:
        """The actions that answer an observation."""
        timed = self._helpers.TimedObservation(time.time(), timestep, observation, True)
        self._send(self._pieces(self._pickle.dumps(timed)))
        return self.replies.get(timeout=_REPLY_LIMIT_S)

    def _receive(self) -> None:
        while True:
            reply = self._ask(self._messages.Empty())
            if reply.data:
                self.replies.put(self._pickle.loads(reply.data))


def _pieces(payload: bytes, wire: Any) -> Iterator[Any]:
    for begin in range(0, len(payload), PIECE):
        last = begin + PIECE >= len(payload)
        state = wire.END if last else wire.MIDDLE if begin else wire.BEGIN
        yield wire.Observation(transfer_state=state, data=payload[begin : begin + PIECE])


def main() -> None:
    address, cameras, joints = sys.argv[2], sys.argv[3].split(","), sys.argv[4].split(",")
    names = [f"{joint}.pos" for joint in joints]
    features: dict[str, Any] = {"observation.state": {"dtype": "float32", "shape": (len(names),), "names": names}}
    for camera in cameras:
        shape = {"dtype": "image", "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]}
        features[f"observation.images.{camera}"] = shape
    state = dict(zip(names, np.linspace(-0.1, 0.1, len(names)).tolist(), strict=True))
    seen = [{**state, **dict(zip(cameras, m, strict=True)), "task": PROMPT} for m in pictures(len(cameras))]
    client = Client(address)
    client.start(features)

    def ask(number: int) -> NDArray[np.floating]:
        actions = client.infer(seen[number % len(seen)], number)
        return np.array([[timed.action[i].item() for i in range(len(names))] for timed in actions])

    answer_blocks(client.name, ask, client.bytes_of(seen[0]))


if __name__ == "__main__":
    main()
