"""self_test.safetensors: observations with the chunks that fp32 answered, so that a robot can judge its own engine.

| tensor                  | is                                                                    |
|-------------------------|-----------------------------------------------------------------------|
| `image.NUMBER.CAMERA`   | uint8 [height, width, 3], as the camera gave it                       |
| `state`                 | float64 [observations, state_dim], in the robot's units               |
| `noise_seeds`           | int64 [observations, draws], as `Policy.infer` takes them             |
| `chunks`                | float32 [observations, draws, horizon, action_dim], normalized, fp32's |

The metadata hold prompt and name of each observation as JSON. There is no pickle in it, and nothing executable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pi0_edge.bundle.file_list import SELF_TEST
from pi0_edge.errors import BundleError, ObservationError
from pi0_edge.model.config import Pi0Config
from pi0_edge.processing.observation import Observation, checked_images, checked_state
from pi0_edge.robots import Robot

MOST_OBSERVATIONS = 1024
_DESCRIPTION = "observations"
_IMAGE = "image"


@dataclass(frozen=True, eq=False)
class SelfTestVectors:
    """Observations, noise seeds and the chunks of fp32.

    Attributes:
        observations: As a robot would send them.
        names: Of each observation, such as the frame that it was.
        noise_seeds: int64 [observations, draws].
        chunks: float32 [observations, draws, horizon, action_dim of the robot], normalized.
    """

    observations: tuple[Observation, ...]
    names: tuple[str, ...]
    noise_seeds: NDArray[np.int64]
    chunks: NDArray[np.float32]

    def to_bytes(self) -> bytes:
        """The file; the same bytes for the same content."""
        tensors: dict[str, NDArray[Any]] = {
            "state": np.stack([np.asarray(one.state, np.float64) for one in self.observations]),
            "noise_seeds": np.asarray(self.noise_seeds, np.int64),
            "chunks": np.asarray(self.chunks, np.float32),
        }
        for number, one in enumerate(self.observations):
            for camera, image in one.images.items():
                tensors[f"{_IMAGE}.{number}.{camera}"] = np.ascontiguousarray(image)
        both = zip(self.names, self.observations, strict=True)
        description = [{"name": name, "prompt": one.prompt} for name, one in both]
        return save(tensors, {_DESCRIPTION: json.dumps(description, sort_keys=True)})


def parse_self_test(content: bytes, config: Pi0Config, robot: Robot) -> SelfTestVectors:
    """Reads the file; the inverse of `SelfTestVectors.to_bytes`.

    Args:
        content: Of the file.
        config: Sizes of the network that shall answer.
        robot: Whose observations these are.

    Raises:
        BundleError: If it is no such file, or its observations or chunks are not of this network and robot.
    """
    try:
        tensors = load(content)
        described = _description(content)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{SELF_TEST} is not a safetensors file with self-test vectors ({error})") from error
    seeds, chunks, states = (tensors.pop(name, None) for name in ("noise_seeds", "chunks", "state"))
    if seeds is None or chunks is None or states is None or seeds.ndim != 2 or seeds.dtype != np.int64:
        raise BundleError(f"{SELF_TEST} lacks noise_seeds, chunks or state; quantize the policy again")
    count, draws = seeds.shape
    if not 1 <= count <= MOST_OBSERVATIONS or not draws or seeds.min() < 0:
        raise BundleError(f"{SELF_TEST} has {count} observations with {draws} seeds each, expected some of both")
    if len(described) != count or states.ndim != 2 or len(states) != count:
        raise BundleError(f"{SELF_TEST} does not hold the same number of states, prompts and seeds; build it again")
    expected = (count, draws, config.horizon, robot.action_dim)
    if chunks.shape != expected or chunks.dtype != np.float32 or not np.isfinite(chunks).all():
        found = f"{chunks.dtype} {list(chunks.shape)}"
        raise BundleError(f"the chunks in {SELF_TEST} are {found}, expected finite float32 {list(expected)}")
    observations = tuple(
        Observation(_images(tensors, number), states[number], one["prompt"]) for number, one in enumerate(described)
    )
    if sum(len(one.images) for one in observations) != len(tensors):
        raise BundleError(f"{SELF_TEST} holds images of no observation; build it again")
    for one in observations:
        try:
            checked_images(one, robot)
            checked_state(one, robot)
        except ObservationError as error:
            raise BundleError(f"an observation in {SELF_TEST} is not one of {robot.name}: {error}") from error
    return SelfTestVectors(observations, tuple(one["name"] for one in described), seeds, chunks)


def _description(content: bytes) -> list[dict[str, Any]]:
    length = int.from_bytes(content[:8], "little")
    described = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_DESCRIPTION])
    for one in described:
        if not isinstance(one["name"], str) or not isinstance(one["prompt"], str | None):
            raise ValueError(f"a name or prompt is {one!r:.80}")
    return described


def _images(tensors: Mapping[str, NDArray[Any]], number: int) -> dict[str, NDArray[np.uint8]]:
    prefix = f"{_IMAGE}.{number}."
    return {name.removeprefix(prefix): image for name, image in tensors.items() if name.startswith(prefix)}
