"""What is timed: an engine alone, a policy, or a policy server. Each makes chunks and tells what their stages took."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pi0_edge.bench.random_weights import random_observation, random_parameters
from pi0_edge.bench.result import PolicyUnderTest
from pi0_edge.bench.served_clients import ServedClient
from pi0_edge.bundle import Bundle
from pi0_edge.engine import Engine, assemble_engine, find_engine
from pi0_edge.errors import BenchError, ConfigError, EngineError, ServingError
from pi0_edge.latency.stages import NETWORK, ON_DEVICE, WHOLE_NETWORK, Boundary, Stage
from pi0_edge.model import PRESETS, ModelInputs, Pi0Config
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation, ObservationProcessor
from pi0_edge.quant.scheme_files import load_scheme
from pi0_edge.self_test.answers import STALE_PREFIX
from pi0_edge.serving.policy_server import warm_up

RANDOM = "random weights"
"""In place of the verdict of a gate: such a network has no task to succeed at."""

READY_S = 120.0
CHUNK_S = 600.0


class Target(Protocol):
    """Something that makes chunks.

    Attributes:
        boundary: Between which points its latencies lie.
        policy: What it is.
        config: Sizes of its network.
        load_s: How long it took until it could answer, in seconds; None where it ran before.
    """

    boundary: Boundary
    policy: PolicyUnderTest
    config: Pi0Config
    load_s: float | None

    def ask(self, number: int) -> Mapping[str, float]:
        """Makes a chunk.

        Args:
            number: Of the observation and the noise, from 0.

        Returns:
            Stage -> how long it took, in milliseconds.
        """
        ...

    def chunk(self, observation: Observation, noise_seed: int) -> NDArray[np.float64]:
        """A normalized chunk for the gate's vectors, [horizon, action_dim of the robot].

        Raises:
            BenchError: If the target has no bundle that brings vectors.
        """
        ...


class StageTimer:
    """Hears when stages of an engine are over, and tells how long each took."""

    def __init__(self, engine: Engine) -> None:
        """Listens to an engine from now on."""
        self.ms: dict[str, float] = {}
        self._last_ns = 0
        self._engine = engine
        engine.on_stage = self._heard

    def begin(self) -> None:
        """A chunk begins."""
        self.ms = {}
        self._last_ns = time.perf_counter_ns()

    def stages(self, network_ms: float) -> dict[str, float]:
        """Stage -> milliseconds of the chunk that has just ended.

        Args:
            network_ms: Of the whole network, by the host's clock.
        """
        if not self._engine.tells_stages:
            device_ms = self._engine.device_ms
            on_device = {} if device_ms is None else {ON_DEVICE: device_ms}
            return {WHOLE_NETWORK: network_ms, **on_device}
        known = {name: ms for name, ms in self.ms.items() if name in set(NETWORK)}
        steps = {name: ms for name, ms in self.ms.items() if name not in known}
        return {**known, Stage.EULER.value: sum(steps.values()), **steps}

    def _heard(self, name: str) -> None:
        now = time.perf_counter_ns()
        self.ms[str(name)] = (now - self._last_ns) * 1e-6
        self._last_ns = now


class PolicyTarget:
    """A policy in this process: observation to actions in physical units, or its engine alone.

    Attributes:
        loaded: The policy itself.
    """

    def __init__(self, policy: Policy, name: str, boundary: Boundary) -> None:
        """Makes the engine ready, as a policy server does before it listens.

        Args:
            policy: Loaded from a bundle.
            name: Of it, for people.
            boundary: `ENGINE` or `POLICY`.
        """
        warm_up(policy)
        self.boundary = boundary
        self.load_s: float | None = None
        self.loaded = policy
        self._observations = observations_of(policy.bundle, policy.processor)
        self._timer = StageTimer(policy.engine)
        self._inputs = [self._to_inputs(observation) for observation in self._observations]
        self.config = policy.engine.config
        self.policy = _policy_under_test(policy, name, self._inputs[0])

    def ask(self, number: int) -> Mapping[str, float]:
        """As `Target.ask`."""
        place = number % len(self._observations)
        if self.boundary is Boundary.ENGINE:
            return self._ask_engine(self._inputs[place], self.loaded.noise(number))
        self._timer.begin()
        chunk = self.loaded.infer(self._observations[place], number)
        stages = self._timer.stages(chunk.infer_ms)
        if Stage.VISION in stages:  # it began when the inputs were ready, and the timer before
            stages[Stage.VISION] -= chunk.preprocess_ms
        return {Stage.PREPROCESS.value: chunk.preprocess_ms, **stages, Stage.POSTPROCESS.value: chunk.postprocess_ms}

    def chunk(self, observation: Observation, noise_seed: int) -> NDArray[np.float64]:
        """As `Target.chunk`."""
        made = self.loaded.infer(observation, noise_seed)
        return made.normalized[:, : made.actions.shape[1]].astype(np.float64)

    def _ask_engine(self, inputs: ModelInputs, noise: Tensor) -> Mapping[str, float]:
        self._timer.begin()
        begin = time.perf_counter()
        self.loaded.engine.infer(inputs, noise)
        return self._timer.stages(1e3 * (time.perf_counter() - begin))

    def _to_inputs(self, observation: Observation) -> ModelInputs:
        return self.loaded.processor.to_model_inputs(observation, as_frames=self.loaded.engine.takes_frames)


class RandomTarget:
    """An engine with random weights of a known size."""

    boundary = Boundary.ENGINE

    def __init__(self, model: str, engine: str, scheme: str | None, cameras: int, tokens: int) -> None:
        """Draws and quantizes the weights.

        Args:
            model: `pi0`, `pi05` or `pi0-cube`.
            engine: Name in `pi0_edge.engine.ENGINES`.
            scheme: Name or file; the default of the engine where None.
            cameras: That deliver images.
            tokens: Of the prompt.

        Raises:
            ConfigError: If there is no such model.
            EngineError: If the engine cannot run it.
            QuantizationError: If the scheme is not known, or needs calibration.
        """
        if model not in PRESETS:
            raise ConfigError(f"there is no network {model!r}; expected one of {', '.join(PRESETS)}")
        self.config = config = PRESETS[model]
        if not 1 <= tokens <= config.max_prompt_tokens or cameras < 1:
            most = config.max_prompt_tokens
            raise ConfigError(
                f"{cameras} cameras and {tokens} tokens; expected 1 camera or more and 1 to {most} tokens"
            )
        begin = time.perf_counter()
        chosen = None if scheme is None else load_scheme(scheme)
        self._engine = assemble_engine(engine, config, random_parameters(config), chosen)
        self._inputs, self._noise = random_observation(config, cameras, tokens)
        self._engine.warm_up(self._inputs, self._noise)
        self.load_s: float | None = time.perf_counter() - begin
        self._timer = StageTimer(self._engine)
        self.policy = PolicyUnderTest(
            name=f"random {model}",
            bundle_sha256="",
            gate=RANDOM,
            overrides=(),
            scheme=self._engine.scheme,
            engine=self._engine.name,
            threads=torch.get_num_threads(),
            euler_steps=len(self._engine.times),
            cameras=cameras,
            tokens=tokens,
            horizon=config.horizon,
            control_hz=None,
        )

    def ask(self, number: int) -> Mapping[str, float]:
        """As `Target.ask`; the noise is always the same."""
        self._timer.begin()
        begin = time.perf_counter()
        self._engine.infer(self._inputs, self._noise)
        return self._timer.stages(1e3 * (time.perf_counter() - begin))

    def chunk(self, observation: Observation, noise_seed: int) -> NDArray[np.float64]:
        """As `Target.chunk`: it has none."""
        raise BenchError("random weights have no vectors to be judged by")


class ServedTarget:
    """A policy server, asked over its port: the encoding, the network and its queue are in the latency."""

    boundary = Boundary.SERVED

    def __init__(self, client: ServedClient, bundle: Bundle, load_s: float | None = None) -> None:
        """Asks the server what it serves.

        Args:
            client: Of it, over whatever protocol.
            bundle: What it must serve.
            load_s: How long it took until it was ready; None where it ran before.

        Raises:
            ServingError: If it does not answer, or serves something else.
        """
        found = client.connect(READY_S)
        if found.bundle_sha256 != bundle.sha256:
            served = f"the bundle {found.bundle_sha256[:16]}" if found.bundle_sha256 else "a checkpoint"
            raise ServingError(f"the server at {client.address} serves {served}, expected {bundle.sha256[:16]}")
        if STALE_PREFIX in found.overrides:
            raise ServingError(f"the server at {client.address} plans from old images; start it without --stale-prefix")
        self.load_s = load_s
        self.config = bundle.config
        self._client = client
        self._processor = bundle.processor()
        self._observations = observations_of(bundle, self._processor)
        inputs = self._processor.to_model_inputs(self._observations[0])
        self.policy = replace(
            _bundle_under_test(bundle, self._processor, inputs),
            overrides=found.overrides,
            scheme=found.scheme,
            engine=found.engine,
            protocol=client.protocol,
            trained_delay=_usable_delay(found.engine, found.trained_delay),
        )

    def ask(self, number: int) -> Mapping[str, float]:
        """As `Target.ask`."""
        begin = time.perf_counter()
        answer = self._client.infer(self._observations[number % len(self._observations)], number)
        took_ms = 1e3 * (time.perf_counter() - begin)
        there = answer.preprocess_ms + answer.infer_ms + answer.postprocess_ms
        return {
            Stage.PREPROCESS.value: answer.preprocess_ms,
            WHOLE_NETWORK: answer.infer_ms,
            Stage.POSTPROCESS.value: answer.postprocess_ms,
            Stage.TRANSPORT.value: took_ms - there,
        }

    def chunk(self, observation: Observation, noise_seed: int) -> NDArray[np.float64]:
        """As `Target.chunk`, normalized again."""
        actions = self._client.infer(observation, noise_seed).actions
        return self._processor.to_normalized(actions, observation)[:, : actions.shape[1]].astype(np.float64)


def observations_of(bundle: Bundle | None, processor: ObservationProcessor) -> tuple[Observation, ...]:
    """What is asked about: the observations of the bundle's vectors, which are real ones; else black images."""
    vectors = None if bundle is None else bundle.self_test()
    if vectors is not None:
        return vectors.observations
    robot = processor.robot
    images = dict.fromkeys(robot.cameras, np.zeros((480, 640, 3), np.uint8))
    return (Observation(images, processor.trained_state(), robot.default_prompt or "wait"),)


def load_target(bundle: Bundle, engine: str, boundary: Boundary, accept_failed_gate: bool = False) -> PolicyTarget:
    """The policy of a bundle that is open, in this process.

    Raises:
        BundleError: If the bundle is refused, or its gate did not pass and that is not accepted.
        EngineError: If there is no such engine, or it cannot run the scheme.
    """
    return PolicyTarget(Policy.from_bundle(bundle, engine, None, accept_failed_gate), bundle.folder.name, boundary)


def _policy_under_test(policy: Policy, name: str, inputs: ModelInputs) -> PolicyUnderTest:
    if policy.bundle is None:
        raise BenchError(f"{name} is no bundle: a speed is told with the verdict of a gate; run `pi0-edge quantize`")
    return replace(
        _bundle_under_test(policy.bundle, policy.processor, inputs),
        name=name,
        overrides=policy.overrides,
        engine=policy.engine.name,
        threads=torch.get_num_threads(),
        euler_steps=len(policy.engine.times),
        trained_delay=_usable_delay(policy.engine.name, policy.engine.config.trained_delay),
    )


def _usable_delay(engine: str, trained_delay: int) -> int:
    """The longest frozen prefix that an engine can use: compiled programs take guidance alone."""
    try:
        return trained_delay if find_engine(engine).has_frozen_prefix else 0
    except EngineError:  # a server of another version has an engine that is not known here
        return trained_delay


def _bundle_under_test(bundle: Bundle, processor: ObservationProcessor, inputs: ModelInputs) -> PolicyUnderTest:
    return PolicyUnderTest(
        name=bundle.folder.name,
        bundle_sha256=bundle.sha256,
        gate=bundle.gate,
        overrides=(),
        scheme=bundle.scheme.name,
        engine="",
        threads=None,
        euler_steps=processor.settings.euler_steps,
        cameras=int(inputs.image_mask[0].sum()),
        tokens=int(inputs.token_mask[0].sum()),
        horizon=bundle.config.horizon,
        control_hz=processor.robot.control_hz,
    )


def targets_are_alike(targets: Sequence[Target]) -> None:
    """Raises `BenchError` where chunks of two targets are not the same work: other cameras, tokens or horizon."""
    kinds = {(one.policy.cameras, one.policy.tokens, one.policy.horizon, one.boundary) for one in targets}
    if len(kinds) > 1:
        raise BenchError(f"cameras, tokens, horizon and boundary differ ({sorted(map(str, kinds))}); expected the same")
