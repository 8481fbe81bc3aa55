"""Requests of the gRPC service: any bytes are an observation of right form, or a refusal."""

from __future__ import annotations

import numpy as np
from google.protobuf.message import DecodeError

from pi0_edge.errors import ObservationError
from pi0_edge.protos import policy_pb2
from pi0_edge.serving.messages import PROMPT_CHARACTERS, read_observation, read_plan

ACTION_DIM = 14
SMALL = 64
"""Height and width of the JPEGs that are decoded: a large one costs a fuzzer its time; its size is checked first."""


def check(data: bytes) -> None:
    """Raises where the conversion does anything but refuse, or gives what is no observation.

    The first byte chooses what the others are: a message, or the file of a JPEG of the size in the two bytes before it.
    """
    kind, rest = data[0] % 2 if data else 0, data[1:]
    if kind:
        height, width = (value % SMALL for value in (*rest[:2], 0, 0)[:2])
        message = policy_pb2.Observation(
            images=[policy_pb2.Image(camera="top", height=height, width=width, jpeg=rest[2:])]
        )
    else:
        try:
            message = policy_pb2.Observation.FromString(rest)
        except DecodeError:
            return
    try:
        observation = read_observation(message)
        assert len(observation.prompt or "") <= PROMPT_CHARACTERS
        for camera, image in observation.images.items():
            assert isinstance(camera, str) and image.dtype == np.uint8 and image.shape[2:] == (3,)
        assert np.asarray(observation.state).dtype == np.float32
        if message.HasField("continuation"):
            plan = read_plan(message.continuation, ACTION_DIM)
            assert plan.actions.shape[1:] == (ACTION_DIM,) and plan.actions.dtype == np.float64
    except ObservationError:
        return
