"""An observation from the newest image of each camera and the joints of the newest tick."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.client import Tick
from pi0_edge.cameras import CameraImage
from pi0_edge.protos import policy_pb2
from pi0_edge.run.events import Observed

_SEEDS = 1 << 63


class Cameras(Protocol):
    """The cameras of a robot, open."""

    def newest(self) -> Mapping[str, CameraImage]:
        """Camera of the robot -> its newest image; a camera that has none is left out."""
        ...


class Observer:
    """Puts observations together.

    Attributes:
        names: The cameras that every observation has.
    """

    def __init__(self, cameras: Cameras, names: tuple[str, ...], image_age_s: float) -> None:
        """Uses cameras that deliver already.

        Args:
            cameras: Of the robot.
            names: Those that every observation has to have.
            image_age_s: An older image is not shown to the policy.
        """
        self.names = names
        self._cameras = cameras
        self._image_age_s = image_age_s
        self._seeds = np.random.default_rng()

    def missing(self) -> str:
        """Which cameras have no image that is new enough, and since when, in words; empty where all have one."""
        images, now = self._cameras.newest(), time.monotonic_ns()
        return "; ".join(said for name in self.names if (said := self._missing(name, images.get(name), now)))

    def observe(self, tick: Tick, prompt: str, continuation: policy_pb2.Continuation | None = None) -> Observed:
        """What the policy is asked about at a tick."""
        images = self._cameras.newest()
        return Observed(
            tick=tick.tick,
            time_ns=time.monotonic_ns(),
            images={name: images[name] for name in self.names},
            state=measured(tick),
            prompt=prompt,
            noise_seed=int(self._seeds.integers(_SEEDS)),
            continuation=continuation,
        )

    def _missing(self, name: str, image: CameraImage | None, now_ns: int) -> str:
        if image is None:
            return f"camera {name} gives no image"
        age_s = (now_ns - image.taken_ns) * 1e-9
        return f"camera {name}: the newest image is {age_s:.1f} s old" if age_s > self._image_age_s else ""


def measured(tick: Tick) -> NDArray[np.float32]:
    """Positions of the joints at a tick, float32 [joints], in physical units."""
    return tick.executed
