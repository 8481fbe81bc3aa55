"""An observation from the newest image of each camera and the joints of the newest tick."""

from __future__ import annotations

import time

import numpy as np

from firmware_bridge.client import Tick
from pi0_edge.cameras import CameraSet
from pi0_edge.errors import CameraError
from pi0_edge.protos import policy_pb2
from pi0_edge.run.events import Observed

PATIENCE_S = 0.3
"""How long images may be missing before the arm is held; the chunk that it executes lasts longer."""

_SEEDS = 1 << 63


class Observer:
    """Puts observations together from open cameras.

    Attributes:
        cameras: Of the robot.
    """

    def __init__(self, cameras: CameraSet) -> None:
        self.cameras = cameras
        self._seeds = np.random.default_rng()
        self._complete_at = time.monotonic()

    def missing(self) -> str:
        """Why no observation can be made now, in words; empty where it can."""
        try:
            self.cameras.newest()
        except CameraError as error:
            return str(error)
        self._complete_at = time.monotonic()
        return ""

    @property
    def missing_s(self) -> float:
        """Seconds since `missing` last found everything."""
        return time.monotonic() - self._complete_at

    def observe(self, tick: Tick, prompt: str, continuation: policy_pb2.Continuation | None = None) -> Observed:
        """What the policy is asked about at a tick.

        Raises:
            CameraError: An image is missing, or too old.
        """
        images = self.cameras.newest()
        return Observed(
            tick=tick.tick,
            time_ns=time.monotonic_ns(),  # after the images: none of them is newer
            images=images,
            state=tick.measured,
            prompt=prompt,
            noise_seed=int(self._seeds.integers(_SEEDS)),
            continuation=continuation,
        )
