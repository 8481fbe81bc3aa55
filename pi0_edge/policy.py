"""A policy: processing around an engine. An observation goes in, a chunk in physical units comes out."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pi0_edge.bundle import Bundle, open_bundle
from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.engine import Engine, assemble_engine, check_engine, parameter_shapes, restore_engine
from pi0_edge.errors import BundleError, EngineError, ObservationError
from pi0_edge.model import Continuation, ModelInputs, join, join_continuations
from pi0_edge.model.flow import euler_times
from pi0_edge.processing import Observation, ObservationProcessor, RunningPlan, continuation, load_processor
from pi0_edge.processing.settings import settings_in
from pi0_edge.processing.trained_range import UnfitState
from pi0_edge.quant import Scheme
from pi0_edge.quant.scheme_files import load_scheme

logger = logging.getLogger(__name__)

WARN_EVERY_S = 60.0
"""How often it is said of a joint that its state is not one that the policy was trained on."""


@dataclass(frozen=True)
class Asked:
    """One question to the policy.

    Attributes:
        observation: Camera images, joint positions and prompt.
        noise_seed: Fixes the initial noise; None draws it.
        plan: What the arm executes meanwhile: the chunk then continues it (real-time chunking). None leaves it free.
    """

    observation: Observation
    noise_seed: int | None = None
    plan: RunningPlan | None = None


@dataclass(frozen=True)
class PolicyChunk:
    """One answer of the policy.

    Attributes:
        actions: float64 [horizon, action_dim] in physical units; action k is due k + 1 ticks after the observation.
        normalized: float32 [horizon, padded action_dim], as the network gave it.
        preprocess_ms: Observation to model inputs.
        infer_ms: Model inputs to normalized actions; of the whole pass where several observations shared one.
        postprocess_ms: Normalized actions to physical units.
        prefix_age_ms: How much older than the observation the images are that it was planned from; 0 unless
            `Policy.allow_stale_prefix`.
        unfit_state: What of the observed state is outside of all that the policy was trained on; None where nothing is.
    """

    actions: NDArray[np.float64]
    normalized: NDArray[np.float32]
    preprocess_ms: float
    infer_ms: float
    postprocess_ms: float
    prefix_age_ms: float = 0.0
    unfit_state: UnfitState | None = None

    @property
    def total_ms(self) -> float:
        """Observation to physical units."""
        return self.preprocess_ms + self.infer_ms + self.postprocess_ms


class Policy:
    """A loaded network with the processing of one robot.

    Attributes:
        engine: Runs the network.
        processor: Converts between the units of the robot and those of the network.
        checkpoint_sha256: Hash of the weights of the checkpoint, or of the one that the bundle was made from.
        bundle: The bundle that it was loaded from, if any.
        overrides: Names of the rules that the user overrode; empty in normal service.
        refuse_unfit_state: Whether a state outside of all that the policy was trained on is refused; else it is
            answered with a warning, at most one a minute for each joint.
    """

    def __init__(
        self,
        engine: Engine,
        processor: ObservationProcessor,
        checkpoint_sha256: str = "",
        bundle: Bundle | None = None,
        overrides: tuple[str, ...] = (),
    ) -> None:
        self.engine = engine
        self.processor = processor
        self.checkpoint_sha256 = checkpoint_sha256
        self.bundle = bundle
        self.overrides = overrides
        self.refuse_unfit_state = False
        self._warned_s: dict[str, float] = {}
        settings = processor.settings
        engine.times = euler_times(settings.euler_steps, settings.euler_times.value)
        self._seeds = np.random.default_rng()

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        engine: str = "cpu",
        scheme: Scheme | str | None = None,
        robot: str | None = None,
        tokenizer: str | Path | None = None,
        sizes: Mapping[str, object] | None = None,
        norm_stats: str | Path | None = None,
    ) -> Policy:
        """Loads a checkpoint of any known layout.

        Args:
            checkpoint: File or folder, see `pi0_edge.checkpoints`.
            engine: Name in `pi0_edge.engine.ENGINES`.
            scheme: How to quantize it, without calibration: a scheme, a name in `SCHEMES` or a .yaml file; the default
                of the engine where None.
            robot: Robot layout by name or YAML path; needed where the checkpoint does not name one.
            tokenizer: tokenizer.model or tokenizer.json; needed where the checkpoint does not hold one.
            sizes: Sizes and settings that the checkpoint does not state: names of `pi0_edge.checkpoints.sizes` and
                `pi0_edge.processing.settings`.
            norm_stats: A norm_stats.json, instead of the checkpoint's own statistics.

        Raises:
            CheckpointError: If the checkpoint does not load.
            ConfigError: If robot, tokenizer, statistics or a size is missing or unknown.
            EngineError: If there is no such engine, or it cannot run the scheme.
            QuantizationError: If there is no such scheme, or it needs calibration.
        """
        scheme = None if scheme is None else load_scheme(scheme)
        check_engine(engine, scheme)  # before gigabytes are read
        opened = open_checkpoint(Path(checkpoint))
        config = opened.infer_config(sizes)
        processor = load_processor(opened.folder, config, robot, tokenizer, norm_stats, settings=settings_in(sizes))
        shapes = parameter_shapes(config)
        opened.check(shapes)
        built = assemble_engine(engine, config, opened.tensors(shapes), scheme)
        return cls(built, processor, combined_hash(opened.source_hashes()))

    @classmethod
    def from_bundle(
        cls,
        folder: str | Path | Bundle,
        engine: str = "cpu",
        public_key: str | Path | None = None,
        accept_failed_gate: bool = False,
    ) -> Policy:
        """Loads a bundle: network, robot, tokenizer and normalization, every byte verified before it is used.

        Args:
            folder: The bundle, see `pi0_edge.bundle`; or one that is open already, whose signature is not asked for
                again.
            engine: Name in `pi0_edge.engine.ENGINES`.
            public_key: PEM file of the key whose signature is required; None requires none.
            accept_failed_gate: Whether the user takes responsibility for a bundle whose accuracy gate failed or is
                missing. The policy then says so in its log, its metadata and every chunk.

        Raises:
            BundleError: If the bundle is refused, or its gate did not pass and `accept_failed_gate` is not set.
            EngineError: If there is no such engine, or it cannot run the scheme of the bundle.
        """
        key = None if public_key is None else Path(public_key)
        bundle = folder if isinstance(folder, Bundle) else open_bundle(Path(folder), public_key=key)
        overrides = bundle.overrides_in_force(accept_failed_gate)
        check_engine(engine, bundle.scheme)
        if overrides:
            logger.warning(
                "%s is run although its accuracy gate is %s: %s", bundle.folder, bundle.gate, ", ".join(overrides)
            )
        processor = bundle.processor()
        try:
            built = restore_engine(engine, bundle.config, bundle.tensors(), bundle.scheme)
        except EngineError as error:
            raise BundleError(
                f"{bundle.folder} does not hold the network that its manifest describes: {error}"
            ) from error
        return cls(built, processor, bundle.manifest.source_sha256, bundle, overrides)

    def allow_stale_prefix(self, limit_s: float) -> None:
        """From now on, chunks may be planned from images up to `limit_s` seconds older than their observation.

        An approximation for robots that ask for chunks faster than the prefix is computed: see docs/kernels.md. Every
        chunk says how old its images are, and `stale-prefix` is among the overrides.

        Raises:
            EngineError: If the engine or the network cannot do that.
        """
        self.engine.allow_stale_prefix(limit_s)
        self.overrides = (*self.overrides, "stale-prefix")

    def reset_prefix(self) -> None:
        """The next chunk is planned from its own images: another robot asks from now on."""
        self.engine.reset_prefix()

    def noise(self, seed: int | None = None) -> torch.Tensor:
        """Initial noise, float32 [1, horizon, action_dim]; the same for the same seed on every machine."""
        rng = self._seeds if seed is None else np.random.default_rng(seed)
        config = self.engine.config
        return torch.from_numpy(rng.standard_normal((1, config.horizon, config.action_dim), dtype=np.float32))

    def infer(
        self, observation: Observation, noise_seed: int | None = None, plan: RunningPlan | None = None
    ) -> PolicyChunk:
        """Answers one observation with one chunk.

        Args:
            observation: Camera images, joint positions and prompt.
            noise_seed: Fixes the initial noise.
            plan: What the arm executes meanwhile; the chunk then continues it (real-time chunking).

        Raises:
            ObservationError: If observation or plan do not fit the robot layout, or the state is not one that the
                policy was trained on and `refuse_unfit_state` is set.
            ConfigError: If the checkpoint was not trained to continue a plan in this way.
        """
        (answer,) = self.infer_together([Asked(observation, noise_seed, plan)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def infer_together(self, asked: Sequence[Asked]) -> list[PolicyChunk | Exception]:
        """Answers several observations, in as few passes of the network as their shapes and the engine allow.

        Observations share a pass where they have equally many cameras, images of one size for the network, and equally
        many frozen actions in what they continue; prompts may differ in length. The chunk of each is the one that it
        gets alone, within the rounding of the engine: see docs/many-robots.md.

        Args:
            asked: The observations with their noise and plans.

        Returns:
            For each its chunk, or why there is none, as `infer` raises it. One that is wrong spoils no other; where a
            shared pass fails, each of its observations is run alone.
        """
        answers: dict[int, PolicyChunk | Exception] = {}
        passes: dict[tuple[object, ...], list[tuple[int, _Prepared]]] = {}
        for place, each in enumerate(asked):
            try:
                prepared = self._prepare(each)
            except Exception as error:
                answers[place] = error
            else:
                passes.setdefault(prepared.shape, []).append((place, prepared))
        for group in passes.values():
            for first in range(0, len(group), self.engine.max_batch):
                taken = group[first : first + self.engine.max_batch]
                made = self._run_pass([prepared for _, prepared in taken])
                answers |= {place: answer for (place, _), answer in zip(taken, made, strict=True)}
        return [answers[place] for place in range(len(asked))]

    def _prepare(self, asked: Asked) -> _Prepared:
        started = time.perf_counter()
        observation = asked.observation
        unfit = self.processor.unfit_state(observation)
        if unfit is not None:
            self._tell(unfit)
        inputs = self.processor.to_model_inputs(observation, as_frames=self.engine.takes_frames)
        continued = None if asked.plan is None else continuation(asked.plan, observation, self.processor)
        prepare_ms = 1e3 * (time.perf_counter() - started)
        return _Prepared(observation, inputs, self.noise(asked.noise_seed), continued, unfit, prepare_ms)

    def _run_pass(self, rows: Sequence[_Prepared]) -> list[PolicyChunk | Exception]:
        started = time.perf_counter()
        try:
            normalized = self.engine.infer(
                join([row.inputs for row in rows]),
                torch.cat([row.noise for row in rows]),
                join_continuations([row.continued for row in rows]),
            ).numpy()
        except Exception as error:
            if len(rows) == 1:
                return [error]
            logger.warning("a pass of %d observations failed (%s); each is run alone", len(rows), error)
            return [answer for row in rows for answer in self._run_pass([row])]
        infer_ms = 1e3 * (time.perf_counter() - started)
        return [self._finish(row, chunk, infer_ms) for row, chunk in zip(rows, normalized, strict=True)]

    def _finish(self, row: _Prepared, normalized: NDArray[np.float32], infer_ms: float) -> PolicyChunk | Exception:
        started = time.perf_counter()
        try:
            actions = self.processor.to_physical(normalized, row.observation)
        except Exception as error:
            return error
        return PolicyChunk(
            actions=actions,
            normalized=normalized,
            preprocess_ms=row.prepare_ms,
            infer_ms=infer_ms,
            postprocess_ms=1e3 * (time.perf_counter() - started),
            prefix_age_ms=1e3 * self.engine.prefix_age_s,
            unfit_state=row.unfit,
        )

    def _tell(self, unfit: UnfitState) -> None:
        """Raises, or warns of each joint once in a while: a control loop asks many times a second."""
        if self.refuse_unfit_state:
            raise ObservationError(str(unfit))
        now = time.monotonic()
        due = [joint for joint in unfit.joints if now - self._warned_s.get(joint.name, -np.inf) >= WARN_EVERY_S]
        if due:
            logger.warning("%s", UnfitState(tuple(due)))
            self._warned_s |= dict.fromkeys((joint.name for joint in due), now)


@dataclass(frozen=True)
class _Prepared:
    """A question in the units of the network."""

    observation: Observation
    inputs: ModelInputs
    noise: torch.Tensor
    continued: Continuation | None
    unfit: UnfitState | None
    prepare_ms: float

    @property
    def shape(self) -> tuple[object, ...]:
        """Equal for those that one pass can answer."""
        images = self.inputs.images
        return images.shape[1:], images.dtype, 0 if self.continued is None else self.continued.frozen


def combined_hash(hashes: Mapping[str, str]) -> str:
    """One sha256 for a set of files: of their names and hashes in the order of the names."""
    listing = "".join(f"{name} {digest}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(listing.encode()).hexdigest()
