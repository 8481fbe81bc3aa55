"""A bundle's self-test vectors, judged with the thresholds of its own accuracy gate."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from pi0_edge.bundle import Bundle
from pi0_edge.bundle.self_test_vectors import SelfTestVectors
from pi0_edge.errors import BundleError, Pi0EdgeError, QuantizationError
from pi0_edge.processing import Observation
from pi0_edge.ptq.verdict import GateVerdict, Thresholds, judge
from pi0_edge.quant.compare import compare_actions


def recorded_thresholds(bundle: Bundle) -> Thresholds | None:
    """The thresholds that the gate of a bundle was judged by; None where it records none.

    Raises:
        BundleError: If they are none.
    """
    verdict = {} if bundle.manifest.gate is None else bundle.manifest.gate.report["verdict"]
    if "thresholds" not in verdict:
        return None
    known = {field.name for field in fields(Thresholds)}
    try:
        return Thresholds(**{name: value for name, value in verdict["thresholds"].items() if name in known})
    except (AttributeError, TypeError, QuantizationError) as error:
        raise BundleError(f"the gate of {bundle.folder} records unusable thresholds: {error}") from error


def recorded_instructions(bundle: Bundle) -> str | None:
    """The instructions that the gate of a bundle ran on; None where it records none, such as before this release."""
    found = None if bundle.manifest.gate is None else bundle.manifest.gate.report.get("instructions")
    return found if isinstance(found, str) else None


@dataclass(frozen=True)
class JudgedVectors:
    """What became of a bundle's vectors.

    Attributes:
        verdict: As the gate would judge these chunks.
        durations_ms: Until each of them was there.
    """

    verdict: GateVerdict
    durations_ms: tuple[float, ...]


Chunks = Callable[[Observation, int], NDArray[np.float64]]
"""Makes the normalized chunk of an observation and a noise seed, [horizon, action_dim of the robot]."""


def judge_vectors(
    chunk: Chunks,
    vectors: SelfTestVectors,
    thresholds: Thresholds,
    advance: Callable[[], object] = lambda: None,
) -> JudgedVectors:
    """Asks for every vector and compares the chunks with those of fp32, on the same noise.

    An error in place of a chunk does not raise: it stands in the verdict.

    Args:
        chunk: Who is asked; it may raise `Pi0EdgeError`.
        vectors: Of the bundle.
        thresholds: To judge by.
        advance: Is called after every chunk.
    """
    cosines: list[tuple[float, float]] = []
    durations, places, refusals = [], [], {}
    rows = zip(vectors.names, vectors.observations, vectors.noise_seeds, vectors.chunks, strict=True)
    for name, observation, seeds, chunks in rows:
        for draw, (seed, reference) in enumerate(zip(seeds, chunks, strict=True)):
            begin = time.perf_counter()
            try:
                found = chunk(observation, int(seed))
                durations.append(1e3 * (time.perf_counter() - begin))
                cosines.append((_cosine(reference, found), _cosine(reference, found, thresholds.executed)))
            except Pi0EdgeError as reason:
                refusals[len(places)] = str(reason)
                cosines.append((float("nan"), float("nan")))
            places.append(f"{name}, noise draw {draw}")
            advance()
    whole, executed = zip(*cosines, strict=True)
    return JudgedVectors(judge(whole, executed, thresholds, places, refusals=refusals), tuple(durations))


def _cosine(reference: NDArray[np.float32], found: NDArray[np.float64], actions: int | None = None) -> float:
    return compare_actions(reference[:actions], found[:actions]).cosine
