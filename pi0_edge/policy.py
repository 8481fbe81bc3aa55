"""A policy: processing around an engine. An observation goes in, a chunk in physical units comes out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.engine import Engine, assemble_engine, check_engine, parameter_shapes
from pi0_edge.processing import Observation, ObservationProcessor, load_processor
from quant import Scheme


@dataclass(frozen=True)
class PolicyChunk:
    """One answer of the policy.

    Attributes:
        actions: float64 [horizon, action_dim] in physical units; action k is due k + 1 ticks after the observation.
        normalized: float32 [horizon, padded action_dim], as the network gave it.
        preprocess_ms: Observation to model inputs.
        infer_ms: Model inputs to normalized actions.
        postprocess_ms: Normalized actions to physical units.
    """

    actions: NDArray[np.float64]
    normalized: NDArray[np.float32]
    preprocess_ms: float
    infer_ms: float
    postprocess_ms: float


class Policy:
    """A loaded network with the processing of one robot."""

    def __init__(self, engine: Engine, processor: ObservationProcessor, checkpoint_sha256: str = "") -> None:
        self.engine = engine
        self.processor = processor
        self.checkpoint_sha256 = checkpoint_sha256
        self._seeds = np.random.default_rng()

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        engine: str = "cpu",
        scheme: Scheme | None = None,
        robot: str | None = None,
        tokenizer: Path | None = None,
        sizes: dict[str, object] | None = None,
    ) -> Policy:
        """Loads a checkpoint of any known layout.

        Args:
            checkpoint: File or folder, see `pi0_edge.checkpoints`.
            engine: Name in `pi0_edge.engine.ENGINES`.
            scheme: How to quantize it, without calibration; the engine's own default where None.
            robot: Robot layout by name or YAML path; needed where the checkpoint does not name one.
            tokenizer: tokenizer.model or tokenizer.json; needed where the checkpoint does not hold one.
            sizes: Sizes that the checkpoint does not tell.

        Raises:
            CheckpointError: If the checkpoint does not load.
            ConfigError: If robot, tokenizer or a size is missing or unknown.
            EngineError: If there is no such engine, or it cannot run the scheme.
            QuantizationError: If the scheme needs calibration.
        """
        check_engine(engine, scheme)  # before gigabytes are read
        opened = open_checkpoint(checkpoint)
        config = opened.infer_config(sizes)
        processor = load_processor(opened.folder, config, robot=robot, tokenizer=tokenizer)
        shapes = parameter_shapes(config)
        opened.check(shapes)
        built = assemble_engine(engine, config, opened.tensors(shapes), scheme)
        return cls(built, processor, combined_hash(opened.source_hashes()))

    def noise(self, seed: int | None = None) -> torch.Tensor:
        """Initial noise, float32 [1, horizon, action_dim]; the same for the same seed on every machine."""
        rng = self._seeds if seed is None else np.random.default_rng(seed)
        config = self.engine.config
        return torch.from_numpy(rng.standard_normal((1, config.horizon, config.action_dim), dtype=np.float32))

    def infer(self, observation: Observation, noise_seed: int | None = None) -> PolicyChunk:
        """Answers one observation with one chunk.

        Raises:
            ObservationError: If the observation does not fit the robot layout.
        """
        started = time.perf_counter()
        inputs = self.processor.to_model_inputs(observation)
        prepared = time.perf_counter()
        normalized = self.engine.infer(inputs, self.noise(noise_seed))[0].numpy()
        inferred = time.perf_counter()
        actions = self.processor.to_physical(normalized, observation)
        finished = time.perf_counter()
        return PolicyChunk(
            actions=actions,
            normalized=normalized,
            preprocess_ms=1e3 * (prepared - started),
            infer_ms=1e3 * (inferred - prepared),
            postprocess_ms=1e3 * (finished - inferred),
        )


def combined_hash(hashes: Mapping[str, str]) -> str:
    """One sha256 for a set of files: of their names and hashes in the order of the names."""
    listing = "".join(f"{name} {digest}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(listing.encode()).hexdigest()
