"""One self-test: load, judge the vectors, time chunks against a budget, and say what was found."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from pi0_edge.bundle import open_bundle
from pi0_edge.bundle.self_test_vectors import SelfTestVectors
from pi0_edge.engine.cpu import CpuEngine
from pi0_edge.errors import ConfigError, Pi0EdgeError
from pi0_edge.latency.percentiles import Latency, fewest_samples
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation, ObservationProcessor
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.ptq.verdict import DEFAULT_THRESHOLDS, Thresholds
from pi0_edge.self_test.accuracy import judge_vectors, recorded_instructions, recorded_thresholds
from pi0_edge.self_test.answers import Answers, EngineAnswers, server_answers
from pi0_edge.self_test.report import Finding, SelfTestReport

CHUNKS = 64
"""Of so many, one may be slower than the 90th percentile that they show."""
ACCEPT_MISSING_SELF_TEST = "accept-missing-self-test"


def run_self_test(
    folder: str | Path,
    engine: str = "cpu",
    *,
    server: str | None = None,
    tls: str | Path | None = None,
    budget_ms: float | None = None,
    chunks: int = CHUNKS,
    public_key: str | Path | None = None,
    accept_failed_gate: bool = False,
    accept_missing_self_test: bool = False,
    on_progress: ProgressCallback | None = None,
) -> SelfTestReport:
    """Tests whether this machine runs a bundle as it was judged, and fast enough.

    Args:
        folder: The bundle.
        engine: Name in `pi0_edge.engine.ENGINES`; without meaning where a server is asked.
        server: host:port of a policy server that serves the bundle and is asked; None asks an engine in this process.
        tls: Folder with certificates for that server, where it asks for one.
        budget_ms: What the 90th percentile of the latency may be, in milliseconds; None sets no limit.
        chunks: How many chunks are timed against the budget.
        public_key: PEM file of the key whose signature is required; None requires none.
        accept_failed_gate: Whether the user takes responsibility for a gate that failed or is missing.
        accept_missing_self_test: The same for a bundle without self-test vectors: its accuracy is not judged then.
        on_progress: Is called after every chunk.

    Returns:
        What was found, which may be that it failed.

    Raises:
        BundleError: If the bundle is refused.
        ConfigError: If the budget or the number of chunks is not possible.
        EngineError: If there is no such engine, or it cannot run the scheme of the bundle.
        ServingError: If the server cannot be reached, or serves something else.
    """
    if chunks < 1 or (budget_ms is not None and not budget_ms > 0):
        raise ConfigError(f"chunks is {chunks} and the budget {budget_ms} ms; expected more than 0")
    begin = time.perf_counter()
    bundle = open_bundle(Path(folder), public_key=None if public_key is None else Path(public_key))
    overrides = bundle.overrides_in_force(accept_failed_gate)
    here = None
    with ExitStack() as stack:
        if server is None:
            policy = Policy.from_bundle(bundle, engine, None, accept_failed_gate)
            answers: Answers = EngineAnswers(policy)
            here = policy.engine.instructions if isinstance(policy.engine, CpuEngine) else None
        else:
            answers = stack.enter_context(server_answers(server, None if tls is None else Path(tls), bundle))
        load_s = time.perf_counter() - begin
        vectors = bundle.self_test()
        if vectors is None and accept_missing_self_test:
            overrides = (*overrides, ACCEPT_MISSING_SELF_TEST)
        look = _Look(answers, on_progress)
        look.at_instructions(recorded_instructions(bundle), here)
        look.at_accuracy(vectors, recorded_thresholds(bundle), accept_missing_self_test)
        if budget_ms is not None:
            look.at_latency(budget_ms, chunks)
    memory = peak_memory_mb() if server is None else None
    if memory is not None:
        look.findings.append(Finding("memory", True, f"{memory:.0f} MB at most, loaded in {load_s:.1f} s"))
    return SelfTestReport(
        findings=tuple(look.findings),
        engine=answers.engine,
        bundle_sha256=bundle.sha256,
        load_s=load_s,
        latency=look.latency,
        chunks=look.chunks,
        peak_memory_mb=memory,
        overrides=overrides,
    )


def peak_memory_mb() -> float:
    """Most memory that this process ever held, in 10^6 bytes; Linux only."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return float("nan") if found is None else int(found[1]) * 1024 / 1e6


def timed(ask: Callable[[int], object], count: int, advance: Callable[[], object] = lambda: None) -> list[float]:
    """Asks `count` times, each as soon as the last is answered.

    Args:
        ask: Gets the number of the call, from 0.
        count: How many calls.
        advance: Is called after each, and is not timed.

    Returns:
        Duration of each, in milliseconds.
    """
    durations = []
    for number in range(count):
        begin = time.perf_counter()
        ask(number)
        durations.append(1e3 * (time.perf_counter() - begin))
        advance()
    return durations


class _Look:
    """Findings about what answers, one part after the other."""

    def __init__(self, answers: Answers, on_progress: ProgressCallback | None) -> None:
        self.findings: list[Finding] = []
        self.latency: Latency | None = None
        self.chunks = 0
        self._answers = answers
        self._on_progress = on_progress
        self._observations = (_black(answers.processor),)

    def at_instructions(self, recorded: str | None, here: str | None) -> None:
        """Says where the gate judged on other instructions; the vectors then say whether that matters."""
        if recorded is not None and here is not None and recorded != here:
            self._found("instructions", True, f"{here} here, {recorded} where the gate judged the bundle")

    def at_accuracy(self, vectors: SelfTestVectors | None, recorded: Thresholds | None, accept_missing: bool) -> None:
        """Judges the vectors, where there are any."""
        if vectors is None:
            self.findings.append(_missing(accept_missing))
            self._try_one()
            return
        if recorded is None:
            self._found("accuracy", True, "the gate records no thresholds, so the usual ones are taken")
        stage = Stage("accuracy", vectors.noise_seeds.size, self._on_progress)
        judged = judge_vectors(self._answers.chunk, vectors, recorded or DEFAULT_THRESHOLDS, stage.advance)
        for refusal in judged.verdict.refusals:
            self._found("accuracy", False, refusal)
        for finding in judged.verdict.findings:
            self._found("accuracy", finding.passed, str(finding))
        self.latency = Latency.of(judged.durations_ms) if judged.durations_ms else None
        self.chunks = len(judged.durations_ms)
        self._observations = vectors.observations

    def at_latency(self, budget_ms: float, count: int) -> None:
        """Times chunks, one after the other, when some were made already."""
        try:
            durations = timed(self._ask, count, Stage("latency", count, self._on_progress).advance)
        except Pi0EdgeError as reason:
            self._found("latency", False, f"a chunk was not made: {reason}")
            return
        self.latency = Latency.of(durations)
        self.chunks += len(durations)
        self.findings.append(_in_time(self.latency, budget_ms))

    def _try_one(self) -> None:
        """Whether there is a chunk at all, be it right or wrong."""
        try:
            self._ask(0)
        except Pi0EdgeError as reason:
            self._found("accuracy", False, f"a chunk was not made: {reason}")
        else:
            self.chunks = 1

    def _ask(self, number: int) -> None:
        self._answers.chunk(self._observations[number % len(self._observations)], number)

    def _found(self, name: str, passed: bool, text: str) -> None:
        self.findings.append(Finding(name, passed, text))


def _missing(accepted: bool) -> Finding:
    text = "the bundle has no self-test vectors, so its accuracy on this machine is not known"
    advice = "" if accepted else f"; quantize the policy again, or accept that with --{ACCEPT_MISSING_SELF_TEST}"
    return Finding("vectors", accepted, text + advice)


def _in_time(latency: Latency, budget_ms: float) -> Finding:
    if latency.p90_ms is None:
        text = f"{latency.count} chunks are not enough for a 90th percentile, expected {fewest_samples(0.9)} at least"
        return Finding("latency", False, text)
    passed = latency.p90_ms <= budget_ms
    relation = "within" if passed else "above"
    text = (
        f"90th percentile {latency.p90_ms:.1f} ms of {latency.count} chunks, {relation} the budget of {budget_ms:g} ms"
    )
    return Finding("latency", passed, text)


def _black(processor: ObservationProcessor) -> Observation:
    """Black images of all cameras, in a pose as trained: enough to measure a latency."""
    robot = processor.robot
    images = dict.fromkeys(robot.cameras, np.zeros((480, 640, 3), np.uint8))
    return Observation(images, processor.trained_state(), robot.default_prompt or "wait")
