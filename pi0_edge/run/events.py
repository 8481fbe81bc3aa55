"""What happens in a run, in the order in which it happens, and who wants to know.

Recorder, dashboard, viewer and mismatch guard are listeners: each sees every observation, chunk, tick and event once.
A listener must return at once; what takes time it does in a thread of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.client import Tick
from pi0_edge.cameras import CameraImage
from pi0_edge.protos import bridge_pb2, policy_pb2


@dataclass(frozen=True)
class Observed:
    """What the policy is asked about.

    Attributes:
        tick: Firmware tick whose measured joints it shows.
        time_ns: When it was put together, on the clock of `time.monotonic_ns`.
        images: Camera of the robot -> its image.
        state: float32 [joints], measured positions in physical units.
        prompt: What to do.
        noise_seed: Of the initial noise, so that the chunk can be computed again.
        continuation: What the chunk continues; None where it is free.
    """

    tick: int
    time_ns: int
    images: Mapping[str, CameraImage]
    state: NDArray[np.float32]
    prompt: str
    noise_seed: int
    continuation: policy_pb2.Continuation | None = None


@dataclass(frozen=True)
class Answered:
    """The chunk that answers an observation, and what became of it.

    Attributes:
        observed: The observation.
        time_ns: When the bridge had reported, on the clock of `time.monotonic_ns`.
        chunk: float32 [horizon, joints], physical units, as the policy gave it.
        overrides: Rules that the policy's user overrode by name.
        infer_ms: The network alone.
        to_chunk_ms: From the observation to the chunk.
        report: What the bridge says: accepted or not, the first tick at which it is executed.
        preprocess_ms: Observation to model inputs, as the policy says.
        postprocess_ms: Normalized actions to physical units, as the policy says.
    """

    observed: Observed
    time_ns: int
    chunk: NDArray[np.float32]
    overrides: tuple[str, ...]
    infer_ms: float
    to_chunk_ms: float
    report: bridge_pb2.ChunkReport
    preprocess_ms: float = 0.0
    postprocess_ms: float = 0.0


@dataclass(frozen=True)
class Event:
    """Anything else that happened, such as `armed`, `paused`, `prompt`, `fault`, `takeover`, `label` or `stopped`.

    Attributes:
        tick: The last known firmware tick.
        time_ns: On the clock of `time.monotonic_ns`.
        name: What happened, one word.
        text: Details in words; may be empty.
    """

    tick: int
    time_ns: int
    name: str
    text: str = ""


class RunListener(Protocol):
    """Sees everything that happens in a run. Calls come from several threads, one at a time."""

    def on_observed(self, observed: Observed) -> None:
        """An observation goes to the policy."""

    def on_answered(self, answered: Answered) -> None:
        """A chunk came back and was played or refused."""

    def on_tick(self, tick: Tick) -> None:
        """The firmware executed a tick."""

    def on_event(self, event: Event) -> None:
        """Something else happened."""
