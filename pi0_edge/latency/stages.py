"""The stages of a chunk's way from camera to motor, and the boundaries between which a latency is measured.

An estimate and a measurement of the same stage have the same name, so that one can be divided by the other.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class Stage(str, Enum):
    """One part of the way, in the order in which a chunk takes it.

    `Stage("Euler loop")` is all Euler steps; the duration of a single step stands under `euler_step(k)`.
    """

    CAPTURE = "capture"
    """From the time that stands in the image to the observation."""
    PREPROCESS = "preprocess"
    """Observation to model inputs."""
    VISION = "vision"
    """Pixels to image tokens."""
    PREFIX = "prefix"
    """Image and prompt tokens to keys and values."""
    STATE = "state"
    """The state token, and what the times of the Euler steps alone decide."""
    EULER = "Euler loop"
    """Noise to normalized actions."""
    POSTPROCESS = "postprocess"
    """Normalized actions to physical units."""
    TRANSPORT = "transport"
    """What lies between the policy and its neighbours: encoding, network, queues; from the observation to the chunk
    beside the policy itself, and from the chunk to its arrival at the bridge."""
    SPLICE = "splice"
    """In the bridge: from the chunk's arrival until it has entered the plan and is ready to be sent."""
    SERIAL = "serial"
    """From the first byte on the line until the firmware has confirmed its first setpoints."""
    TICK = "tick"
    """From the confirmation until the timer interrupt of the first tick that executes it."""
    SERVO = "servo command"
    """From that timer interrupt until the command has left on the servo bus."""

    __str__ = str.__str__


NETWORK = (Stage.VISION, Stage.PREFIX, Stage.STATE, Stage.EULER)
"""What an engine does."""
WHOLE_NETWORK = "network"
"""All of it, where an engine runs it as one graph or in another process and tells only the sum."""
ON_DEVICE = "network on the device"
"""The part of it between two events on the GPU, which the host's clock sees with the launch and the way back."""


class Boundary(str, Enum):
    """What lies between the begin and the end of a latency.

    The names B1 to B4 are those of published measurements: latencies of different boundaries are never compared.
    """

    ENGINE = "engine"
    """B1: model inputs to normalized actions."""
    POLICY = "policy"
    """B2: observation to actions in physical units."""
    SERVED = "served"
    """B3: the same through a policy server."""
    PATH = "path"
    """B4: time of the image to the first servo command that answers it."""

    __str__ = str.__str__

    @property
    def number(self) -> str:
        """Such as `B2`."""
        return f"B{list(Boundary).index(self) + 1}"


StageCallback = Callable[[str], object]
"""Is called with the name of a stage, or of an Euler step, as soon as it is over."""


def not_timed(_: str) -> None:
    """The callback of whoever does not ask for stages."""


def euler_step(step: int) -> str:
    """Name of a single Euler step, which counts from 0."""
    return f"Euler step {step}"
