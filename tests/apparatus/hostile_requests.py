"""Requests for the gRPC services that have to be refused, and right ones with changed bytes; the same for a seed.

Three grammars: values that contradict each other in messages of the right form, the wire format of protobuf with lying
lengths, and JPEGs whose headers lie.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from hostile_pickles import changed

from pi0_edge.protos import bridge_pb2, policy_pb2
from pi0_edge.serving.jpeg_images import encode_jpeg

JOINTS = 14
CAMERA = "top"
NOTHING = float("nan")
_PICTURE = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)
JPEG = encode_jpeg(_PICTURE, 80)


@dataclass(frozen=True)
class Hostile:
    """A message for one method.

    Attributes:
        method: Name of the method.
        data: Bytes of the request.
        refused: Whether it has to be refused; others are changed right ones, which may be right by chance.
    """

    method: str
    data: bytes
    refused: bool


def right_observation(**other: Any) -> policy_pb2.Observation:
    """One that the policy of the tests answers."""
    image = policy_pb2.Image(camera=CAMERA, height=16, width=24, rgb=_PICTURE.tobytes())
    given = {"images": [image], "state": [0.1] * JOINTS, "prompt": "Transfer cube", **other}
    return policy_pb2.Observation(**given)


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    written = b""
    while value > 127:
        written, value = written + bytes([value & 127 | 128]), value >> 7
    return written + bytes([value])


def wire(rng: random.Random) -> bytes:
    """Fields that nobody writes: lying lengths, endless numbers, groups in groups, types that do not exist."""
    nested = rng.choice([50, 1000, 20_000])
    tag = bytes([rng.choice([1, 2, 3, 4, 5, 6]) << 3 | 2])
    return rng.choice(
        [
            lambda: rng.randbytes(rng.randrange(1, 64)),
            lambda: tag + varint(rng.choice([2**31, 2**32 - 1, 2**63, 200])) + b"abc",
            lambda: b"\x30" + b"\xff" * 11,
            lambda: b"\x33" * nested,
            lambda: b"\x33" * nested + b"\x34" * nested,
            lambda: bytes([rng.choice([6, 7]) | 8]) + b"abcd",
            lambda: b"\x00" + b"abc",
            lambda: b"\xf8\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x01",
            lambda: b"\x1a\x04\xff\xfe\xfd\xfc",  # a prompt that is no UTF-8
            lambda: b"\x12\x03abc",  # a state of three bytes
            lambda: b"\x0a\x03\x0a\x01" + rng.randbytes(3),
        ]
    )()


def _image(rng: random.Random) -> dict[str, Any]:
    """Images that are none."""
    size = rng.choice([0, 1, 17, 2**16, 2**32 - 1])
    other = rng.choice([0, 24, 2**16, 2**31])
    broken = bytearray(JPEG)
    for _ in range(rng.randrange(1, 6)):
        broken[rng.randrange(2, 200)] = rng.randrange(256)
    progressive = JPEG.replace(b"\xff\xc0", b"\xff\xc2")
    header = JPEG.index(b"\xff\xc0")
    lying = JPEG[: header + 5] + struct.pack(">HH", 65535, 65535) + JPEG[header + 9 :]
    return rng.choice(
        [
            {"height": size, "width": other, "rgb": _PICTURE.tobytes()[:1000]},
            {"height": 16, "width": 24, "rgb": b""},
            {"height": 2**16, "width": 2**16, "rgb": b""},
            {"height": 2**32 - 1, "width": 2**32 - 1, "jpeg": JPEG},
            {"height": 65535, "width": 65535, "jpeg": lying},
            {"height": 3000, "width": 3000, "jpeg": JPEG},
            {"height": 16, "width": 24, "jpeg": lying},
            {"height": 16, "width": 24, "jpeg": progressive},
            {"height": 16, "width": 24, "jpeg": JPEG[: rng.randrange(len(JPEG) // 2)]},
            {"height": 16, "width": 24, "jpeg": b"\x89PNG\r\n\x1a\n" + bytes(50)},
            {"height": 16, "width": 24, "jpeg": b"\xff\xd8" + b"\xff" * 4000},
            {"height": 16, "width": 24, "jpeg": b"\xff\xd8" + b"\xff\xe0\x00\x02" * 2000},
            {"height": 16, "width": 25, "jpeg": bytes(broken)},
            {"height": 16, "width": 24},
        ]
    )


def lying_observation(rng: random.Random) -> bytes:
    """An observation of the right form whose values cannot be."""
    bad = rng.choice([NOTHING, float("inf"), -float("inf")])
    name = rng.choice(["", "nose", "top\0", "../top", "a" * 5000, "top top", "‮pot"])
    plan: dict[str, Any] = {"actions": [0.1] * JOINTS * 4, "delay": 1, "overlap": 2, "max_weight": 5.0}
    plans = [
        {"actions": [0.1] * 13},
        {"actions": []},
        {"actions": [bad] * JOINTS * 4},
        {"delay": 2**32 - 1},
        {"method": 99},
        {"method": -1},
        {"schedule": 2**31 - 1},
        {"max_weight": bad},
        {"max_weight": -1.0},
        {"actions": [0.1] * JOINTS * 5000},
    ]
    right = right_observation().images[0]
    made = rng.choice(
        [
            lambda: right_observation(images=[policy_pb2.Image(camera=CAMERA, **_image(rng))]),
            lambda: right_observation(images=[right, right]),
            lambda: right_observation(images=[policy_pb2.Image(camera=f"c{n}", rgb=b"a") for n in range(3000)]),
            lambda: right_observation(images=[policy_pb2.Image(camera=name, height=16, width=24, rgb=right.rgb)]),
            lambda: right_observation(images=[]),
            lambda: right_observation(state=[0.1] * rng.choice([0, 13, 15, 100_000])),
            lambda: right_observation(state=[0.1] * 13 + [bad]),
            lambda: right_observation(state=[3e38] * 13 + [bad]),
            lambda: right_observation(prompt="x" * rng.choice([4097, 1 << 20])),
            lambda: right_observation(prompt="Transfer cube " * 250),
            lambda: right_observation(continuation=policy_pb2.Continuation(**{**plan, **rng.choice(plans)})),
        ]
    )()
    return made.SerializeToString()


def hostile_observations(seed: int) -> Iterator[Hostile]:
    """Endless requests for the policy."""
    rng = random.Random(seed)
    right = [
        right_observation().SerializeToString(),
        right_observation(images=[policy_pb2.Image(camera=CAMERA, height=16, width=24, jpeg=JPEG)]).SerializeToString(),
    ]
    while True:
        kind = rng.random()
        if kind < 0.15:
            yield Hostile("Infer", changed(rng, rng.choice(right)), False)
        elif kind < 0.3:
            yield Hostile("Infer", wire(rng), True)
        elif kind < 0.35:
            yield Hostile("Infer", rng.choice(right) + wire(rng), False)
        elif kind < 0.4:
            yield Hostile(rng.choice(["GetMetadata", "infer", "Infer/..", "", "x" * 2000]), wire(rng), False)
        else:
            yield Hostile("Infer", lying_observation(rng), True)


def lying_chunk(rng: random.Random, at: list[float], tick: int) -> policy_pb2.Chunk:
    """A chunk that may not move the arm.

    Args:
        rng: Chooses.
        at: Where the arm is.
        tick: That it has reached.
    """
    still = {"horizon": 10, "action_dim": len(at), "actions": at * 10}
    clock = policy_pb2.ObservationClock(tick=tick)
    bad = rng.choice([NOTHING, float("inf"), -float("inf"), 3e38, -3e38])
    place = rng.randrange(len(at) * 10)
    spoilt = at * 10
    spoilt[place] = bad
    makers: list[Callable[[], policy_pb2.Chunk]] = [
        lambda: policy_pb2.Chunk(**{**still, "actions": spoilt}, clock=clock),
        lambda: policy_pb2.Chunk(**{**still, "actions": [bad] * len(spoilt)}, clock=clock),
        lambda: policy_pb2.Chunk(**{**still, "horizon": rng.choice([0, 9, 2**32 - 1])}, clock=clock),
        lambda: policy_pb2.Chunk(**{**still, "action_dim": rng.choice([0, 13, 2**31])}, clock=clock),
        lambda: policy_pb2.Chunk(horizon=10, action_dim=13, actions=[0.0] * 130, clock=clock),
        lambda: policy_pb2.Chunk(horizon=200, action_dim=len(at), actions=at * 200, clock=clock),
        lambda: policy_pb2.Chunk(horizon=len(at) * 10, action_dim=1, actions=at * 10, clock=clock),
        lambda: policy_pb2.Chunk(**still),
        lambda: policy_pb2.Chunk(clock=clock),
        lambda: policy_pb2.Chunk(**still, clock=policy_pb2.ObservationClock(tick=2**32 - 1 - rng.randrange(9))),
        lambda: policy_pb2.Chunk(**still, clock=policy_pb2.ObservationClock(tick=tick + 10**6)),
    ]
    return rng.choice(makers)()


def hostile_commands(seed: int) -> Iterator[Hostile]:
    """Endless requests for the bridge, none of which may arm or move the arm."""
    rng = random.Random(seed)
    methods = ("Arm", "Disarm", "Clear", "Release", "GetStatus", "PlayChunks", "WatchTelemetry")
    names = [f"joint {number}" for number in range(JOINTS)]
    while True:
        client = rng.choice(["", "x" * 65, "a\nb", "‮", "attacker", "y" * 60_000])
        lease = rng.choice(["", "0" * 32, "\0", "z" * 60_000, "../../lease"])
        joints = rng.choice([[], names, names[:3], ["" for _ in names], names * 200])
        chunk = lying_chunk(rng, [0.0] * JOINTS, 5)
        requests = [
            ("Arm", bridge_pb2.ArmRequest(client=client, joint_names=joints)),
            ("Disarm", bridge_pb2.CommandRequest(lease=lease or "x", reason="r" * rng.choice([1, 60_000]))),
            ("Release", bridge_pb2.CommandRequest(lease=lease or "x")),
            ("PlayChunks", bridge_pb2.PlayRequest(lease=lease, chunk=chunk)),
            ("PlayChunks", bridge_pb2.PlayRequest(lease=lease)),
        ]
        method, message = rng.choice(requests)
        kind = rng.random()
        if kind < 0.2:
            yield Hostile(rng.choice(methods), wire(rng), False)
        elif kind < 0.4:
            yield Hostile(method, changed(rng, message.SerializeToString() or b"a"), False)
        elif kind < 0.45:
            yield Hostile(rng.choice(["arm", "Move", "..", "x" * 2000]), wire(rng), True)
        else:
            yield Hostile(method, message.SerializeToString(), method in ("Arm", "PlayChunks"))
