"""Peers that send hostile messages to a running server, one way in after the other, and count what becomes of each.

What may become of a message: a refusal with words, an answer (only where it may be right by chance), or nothing where
the peer left in the middle. Whatever else there is, is wrong: no end within `PATIENCE_S`, a status that blames the
server, a traceback, an answer to what has to be refused.
"""

from __future__ import annotations

import itertools
import random
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from hostile_frames import BINARY, CLOSE, TEXT, Talk, handshake, hostile_talks
from hostile_pickles import LAST, hostile_pickles, in_pieces
from hostile_requests import Hostile, hostile_commands, hostile_observations, lying_chunk

from pi0_edge.protos import bridge_pb2, bridge_pb2_grpc
from pi0_edge.serving.lerobot_async import wire

PATIENCE_S = 15.0
_PER_CONNECTION = 150  # a server lets one peer begin 400 calls at once
_FULL = "HTTP 503"
_BLAMES_ITSELF = ("INTERNAL", "UNKNOWN", "DATA_LOSS")


@dataclass
class Tally:
    """What became of the messages of one way in.

    Attributes:
        sent: How many there were.
        refused: By what, and how often.
        answered: That were right by chance.
        left: In which the peer went away.
        wrong: What should not be, in words.
    """

    sent: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    left: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, kind: str, words: str, must: bool, message: object) -> None:
        """Counts one message.

        Args:
            kind: `answered`, `left`, or the name of a refusal.
            words: What the server said.
            must: Whether it had to be refused.
            message: For the report where something is wrong.
        """
        self.sent += 1
        said = f"{kind}: {words[:200]!r} to {str(message)[:300]}"
        if kind == "answered":
            self.answered += 1
            if must:
                self.wrong.append(said)
        elif kind == "left":
            self.left += 1
        else:
            self.refused[kind] += 1
            if kind in _BLAMES_ITSELF or kind == "hang" or "Traceback" in words or not words:
                self.wrong.append(said)


def channels(address: str, count: int, each: int = _PER_CONNECTION) -> Iterator[grpc.Channel]:
    """A channel for each of `count` messages, a new one after `each`: a peer is known by its connection."""
    for first in range(0, count, each):
        with grpc.insecure_channel(
            address, [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        ) as channel:
            for _ in range(min(each, count - first)):
                yield channel


def _call(call: Any, request: Any) -> tuple[str, str]:
    """What becomes of a call: its kind and its words."""
    try:
        answer = call(request, timeout=PATIENCE_S)
        if hasattr(answer, "__next__"):
            next(answer, None)
            answer.cancel()
        return "answered", ""
    except grpc.RpcError as error:
        code, details = error.code(), error.details()  # pyright: ignore[reportAttributeAccessIssue]
        return ("hang" if code is grpc.StatusCode.DEADLINE_EXCEEDED else code.name), str(details)


def ask_raw(channel: grpc.Channel, service: str, message: Hostile) -> tuple[str, str]:
    """Sends bytes as the request of a method."""
    path = f"/{service}/{message.method}"
    if message.method == "PlayChunks":
        return _call(channel.stream_stream(path), iter([message.data]))
    if message.method == "WatchTelemetry":
        return _call(channel.unary_stream(path), message.data)
    return _call(channel.unary_unary(path), message.data)


def attack_grpc(address: str, service: str, count: int, seed: int, tally: Tally) -> None:
    """Hostile requests for PolicyService or RobotBridge."""
    messages = hostile_observations(seed) if service.endswith("PolicyService") else hostile_commands(seed)
    for channel, message in zip(channels(address, count), messages, strict=False):
        tally.add(*ask_raw(channel, service, message), message.refused, message)


def attack_lease(address: str, count: int, seed: int, tally: Tally) -> list[float]:
    """Chunks of a peer that holds the arm, none of which may move it: each ends its stream, or is not accepted.

    Args:
        address: Of the bridge.
        count: Chunks.
        seed: Of all of them.
        tally: Counts them.

    Returns:
        How far each joint is from where it was, in its units.
    """
    rng = random.Random(seed)
    with grpc.insecure_channel(address) as channel:
        begin = _next_tick(channel)
        names = list(_ask(channel, "GetStatus", bridge_pb2.StatusRequest()).joint_names)
    lease = ""
    for channel in channels(address, count, 80):
        if not lease or _ask(channel, "GetStatus", bridge_pb2.StatusRequest()).owner != "attacker":
            _ask(channel, "Clear", bridge_pb2.CommandRequest(reason="again"))
            lease = _ask(channel, "Arm", bridge_pb2.ArmRequest(client="attacker", joint_names=names)).lease
        chunk = lying_chunk(rng, list(begin.executed), begin.tick)
        request = bridge_pb2.PlayRequest(lease=lease, chunk=chunk).SerializeToString()
        try:
            stream = channel.stream_stream("/pi0_edge.v1.RobotBridge/PlayChunks")(iter([request]), timeout=PATIENCE_S)
            report = bridge_pb2.ChunkReport.FromString(next(stream))
            outcome = bridge_pb2.ChunkReport.Outcome.Name(report.outcome)
            kind = "answered" if report.outcome == bridge_pb2.ChunkReport.ACCEPTED else outcome
            tally.add(kind, report.reason or outcome, True, chunk)
        except grpc.RpcError as error:
            code, details = error.code(), error.details()  # pyright: ignore[reportAttributeAccessIssue]
            tally.add("hang" if code is grpc.StatusCode.DEADLINE_EXCEEDED else code.name, str(details), True, chunk)
    with grpc.insecure_channel(address) as channel:
        _ask(channel, "Disarm", bridge_pb2.CommandRequest(lease=lease))
        end = _next_tick(channel)
    return [there - here for there, here in zip(end.executed, begin.executed, strict=True)]


def _ask(channel: grpc.Channel, name: str, request: Any) -> Any:
    """One call of the bridge, as a good client makes it."""
    return getattr(bridge_pb2_grpc.RobotBridgeStub(channel), name)(request, timeout=PATIENCE_S)


def _next_tick(channel: grpc.Channel) -> bridge_pb2.Telemetry:
    stream = _ask(channel, "WatchTelemetry", bridge_pb2.TelemetryRequest())
    try:
        return next(stream)
    finally:
        stream.cancel()


class LerobotPeer:
    """The calls of LeRobot's asynchronous client on one connection, which may send anything."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])

    def close(self) -> None:
        """Gives its place back, and ends the connection."""
        self._call("Ready", wire.Empty())
        self._channel.close()

    def instruct(self, data: bytes) -> tuple[str, str]:
        """`SendPolicyInstructions`."""
        return self._call("SendPolicyInstructions", wire.PolicySetup(data=data))

    def send(self, pieces: list[tuple[int, bytes]]) -> tuple[str, str]:
        """`SendObservations`."""
        written = [wire.Observation(transfer_state=state, data=data).SerializeToString() for state, data in pieces]
        return _call(self._channel.stream_unary(f"/{wire.SERVICE}/SendObservations"), iter(written))

    def actions(self) -> bytes:
        """`GetActions`."""
        return self._channel.unary_unary(f"/{wire.SERVICE}/GetActions", None, wire.Actions.FromString)(
            b"", timeout=PATIENCE_S
        ).data

    def _call(self, name: str, request: Any) -> tuple[str, str]:
        return _call(self._channel.unary_unary(f"/{wire.SERVICE}/{name}"), request.SerializeToString())


def attack_lerobot(address: str, count: int, seed: int, tally: Tally, canary: Path, right: dict[str, bytes]) -> None:
    """Hostile pickles as instructions and as observations, in pieces of any order.

    Args:
        address: Of the server.
        count: Messages.
        seed: Of all of them.
        tally: Counts them.
        canary: File that some would write.
        right: The messages `config` and `observation` of a stock client.
    """
    rng = random.Random(seed)
    peer = LerobotPeer(address)
    try:
        assert peer.instruct(right["config"])[0] == "answered"
        pickles = hostile_pickles(seed, canary, list(right.values()))
        for payload, must in itertools.islice(pickles, count):
            if rng.random() < 0.4:
                tally.add(*peer.instruct(payload), must, payload)
                continue
            pieces = in_pieces(rng, payload)
            what_arrives = b"".join(data for _, data in pieces)
            tally.add(*peer.send(pieces), must or not what_arrives, (payload, pieces[:9]))
            if rng.random() < 0.02:  # whatever came before, a right observation is answered
                peer.instruct(right["config"])
                assert peer.send([(LAST, right["observation"])])[0] == "answered"
                peer.actions()
    finally:
        peer.close()


def attack_openpi(address: str, count: int, seed: int, tally: Tally) -> None:
    """Hostile handshakes, frames and messages, each on a connection of its own."""
    for talk in itertools.islice(hostile_talks(seed), count):
        kind, words = talk_raw(address, talk)
        while kind == _FULL:  # connections of earlier peers that will not say goodbye are ended after two seconds
            time.sleep(0.2)
            kind, words = talk_raw(address, talk)
        tally.add(kind, words, talk.refused, talk)


def talk_raw(address: str, talk: Talk) -> tuple[str, str]:
    """What becomes of one connection."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        try:
            connection.sendall(talk.handshake)
            if talk.leaves and not talk.frames:
                return "left", ""
            reader = connection.makefile("rb")
            head = b"".join(iter(lambda: reader.readline(), b"\r\n")) if (first := reader.peek(1)) else first
            if status := re.match(rb"HTTP/1\.1 (\d+) ([^\r]*)", head):
                if status[1] != b"101":
                    return f"HTTP {status[1].decode()}", status[2].decode()
            else:
                return "closed", "the connection"
            if _read_frame(reader)[0] != BINARY:
                return "hang", "no metadata came"
            _send_all(connection, talk.frames)
            if talk.leaves:
                connection.shutdown(socket.SHUT_WR)
            return _end_of(reader, talk)
        except TimeoutError:
            return "hang", f"no end within {PATIENCE_S:g} s"
        except OSError as error:
            return "reset", str(error)


def _send_all(connection: socket.socket, frames: bytes) -> None:
    """The server may refuse before it has read everything."""
    try:
        connection.sendall(frames)
    except OSError:
        return


def _end_of(reader: Any, talk: Talk) -> tuple[str, str]:
    """Reads to the end of a connection: the last words before it, or what was answered."""
    words = ""
    while True:
        code, payload = _read_frame(reader)
        if code == TEXT:
            words = payload.decode()
        elif code == BINARY:
            return "answered", ""
        elif code == CLOSE:
            number = struct.unpack(">H", payload[:2])[0] if len(payload) > 1 else 1005
            return f"close {number}", words or payload[2:].decode() or f"close code {number}"
        elif code < 0:
            return ("left", words) if talk.leaves else ("closed", words or "the connection")


def _read_frame(reader: Any) -> tuple[int, bytes]:
    """Opcode and payload of the next frame of a server; -1 at the end."""
    head = reader.read(2)
    if len(head) < 2:
        return -1, b""
    size = head[1] & 127
    if size >= 126:
        size = int.from_bytes(reader.read(2 if size == 126 else 8), "big")
    return head[0] & 15, reader.read(size)


def slow_handshakes(address: str, count: int) -> float:
    """Handshakes of which one byte a second comes; returns after how many seconds the server had ended all of them."""
    host, _, port = address.rpartition(":")
    began = time.monotonic()
    open_now = [socket.create_connection((host, int(port)), timeout=1) for _ in range(count)]
    data = handshake({b"X-Slow": b"a" * 1000})
    for place in itertools.count():
        still = []
        for connection in open_now:
            try:
                connection.sendall(data[place : place + 1])
                connection.setblocking(False)
                if connection.recv(1000):
                    still.append(connection)
                    connection.setblocking(True)
                    continue
            except BlockingIOError:
                connection.setblocking(True)
                still.append(connection)
                continue
            except OSError:
                pass
            connection.close()
        open_now = still
        if not open_now or time.monotonic() - began > 60:
            return time.monotonic() - began
        time.sleep(1)
    raise AssertionError("counted to the end")
