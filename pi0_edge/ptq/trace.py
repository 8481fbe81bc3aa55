"""The chunks of one policy for a set of observations, with keys, values and velocities inside its network.

A trace holds numbers only, so that the reference can be freed before the candidate is loaded. Hooks on the running
network record its inside: the chunk that is judged is the chunk that would have been executed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pi0_edge.bundle.self_test_vectors import SelfTestVectors
from pi0_edge.errors import EngineError, QuantizationError
from pi0_edge.model import Pi0
from pi0_edge.model.gemma import KeyValues
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation

PROBED = 8
"""Observations whose keys and values are kept; at full size they are 30 MB per observation."""

LEAST_VECTORS = 24
"""Chunks that a self-test judges at least, where there are so many."""


@dataclass(frozen=True)
class NetworkTrace:
    """Inside the network, while it computed one chunk.

    Attributes:
        keys: Per layer, float32 [prefix tokens, kv_heads * head_dim], after rotary positions.
        values: Per layer, the same shape.
        velocities: float32 [Euler steps, horizon, action_dim of the network].
    """

    keys: tuple[NDArray[np.float32], ...]
    values: tuple[NDArray[np.float32], ...]
    velocities: NDArray[np.float32]


@dataclass(frozen=True)
class Trace:
    """The chunks of one policy; where it gave none, they are NaN.

    Attributes:
        normalized: float64 [observations, draws, horizon, action_dim of the robot], as the network computes them.
        physical: float64 of the same shape, in the robot's own units.
        inside: By observation, of its first noise draw; empty where the engine does not run a torch model.
        refusals: Reason why there is no chunk, by (observation, draw).
    """

    normalized: NDArray[np.float64]
    physical: NDArray[np.float64]
    inside: dict[int, NetworkTrace]
    refusals: dict[tuple[int, int], str]


def trace(
    policy: Policy,
    observations: Sequence[Observation],
    draws: int = 1,
    probed: int = PROBED,
    advance: Callable[[], object] = lambda: None,
    first_seed: int = 0,
) -> Trace:
    """Asks a policy for `draws` chunks per observation; the noise depends on observation and draw alone.

    An error of the engine does not raise: it becomes a refusal, which the gate judges.

    Args:
        policy: On any engine; its inside is recorded where it runs the modules of `engine.model`.
        observations: To answer.
        draws: Noise draws per observation.
        probed: For how many observations, evenly spread, keys, values and velocities are kept.
        advance: Is called after every chunk.
        first_seed: Of the noise; traces whose seeds do not overlap have independent noise.

    Raises:
        ObservationError: If an observation does not fit the robot.
    """
    shape = (len(observations), draws, policy.engine.config.horizon, policy.processor.robot.action_dim)
    found = Trace(np.full(shape, np.nan), np.full(shape, np.nan), {}, {})
    chosen = set(np.linspace(0, len(observations) - 1, min(probed, len(observations))).astype(int).tolist())
    for place, draw in product(range(len(observations)), range(draws)):
        probe = _Probe(policy.engine if draw == 0 and place in chosen else None)
        try:
            with probe:
                chunk = policy.infer(observations[place], noise_seed=first_seed + _noise_seed(place, draws, draw))
        except (EngineError, QuantizationError) as reason:
            found.refusals[place, draw] = str(reason)
        else:
            found.normalized[place, draw] = chunk.normalized[:, : shape[-1]]
            found.physical[place, draw] = chunk.actions
            if probe.context and probe.velocities:
                found.inside[place] = probe.network_trace()
        advance()
    return found


def self_test_vectors(
    reference: Trace, observations: Sequence[Observation], names: Sequence[str], least: int = LEAST_VECTORS
) -> SelfTestVectors:
    """What a robot tests itself with: some observations, evenly spread, with all their noise draws and chunks.

    Args:
        reference: Trace of fp32 over the observations.
        observations: Those that the gate judged on.
        names: Of each.
        least: How many chunks there are at least, if the trace has so many.
    """
    count, draws = reference.normalized.shape[:2]
    wanted = min(count, -(-max(least, LEAST_VECTORS) // draws))
    places: list[int] = np.linspace(0, count - 1, wanted).astype(int).tolist()
    seeds = [[_noise_seed(place, draws, draw) for draw in range(draws)] for place in places]
    return SelfTestVectors(
        observations=tuple(observations[place] for place in places),
        names=tuple(names[place] for place in places),
        noise_seeds=np.array(seeds, np.int64),
        chunks=reference.normalized[places].astype(np.float32),
    )


def _noise_seed(place: int, draws: int, draw: int) -> int:
    return place * draws + draw


class _Probe:
    """Hooks on prefix and action projection of an engine's model, if it has one, while one chunk is made."""

    def __init__(self, engine: object | None) -> None:
        self.context: list[KeyValues] = []
        self.velocities: list[NDArray[np.float32]] = []
        self._model = getattr(engine, "model", None)
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> None:
        if isinstance(self._model, Pi0):
            self._hooks.append(self._model.prefix.register_forward_hook(self._keep_prefix))
            self._hooks.append(self._model.action_out_proj.register_forward_hook(self._keep_velocity))

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def network_trace(self) -> NetworkTrace:
        """The recorded tensors as numbers."""
        keys = tuple(_flat(layer.keys) for layer in self.context)
        values = tuple(_flat(layer.values) for layer in self.context)
        return NetworkTrace(keys, values, np.stack(self.velocities))

    def _keep_prefix(self, module: nn.Module, arguments: object, context: list[KeyValues]) -> None:
        self.context = context

    def _keep_velocity(self, module: nn.Module, arguments: object, velocity: Tensor) -> None:
        self.velocities.append(velocity[0].float().cpu().numpy().copy())


def _flat(x: Tensor) -> NDArray[np.float32]:
    return x[0].flatten(1).float().cpu().numpy().copy()
