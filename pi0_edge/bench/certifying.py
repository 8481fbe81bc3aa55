"""The serving certificate of a measured result; what it says and why stands in `pi0_edge.latency.certificate`."""

from __future__ import annotations

from firmware_bridge.bridge.schedule import link_ticks
from pi0_edge.bench.result import BenchResult, PolicyUnderTest, Run
from pi0_edge.errors import BenchError
from pi0_edge.latency.certificate import (
    REPLAN_TICKS,
    SPLICES,
    Certificate,
    delay_of,
    longest_latency_ms,
    replan_interval,
)
from pi0_edge.latency.percentiles import Latency, percentile_text
from pi0_edge.latency.stages import Boundary
from pi0_edge.robots import Robot

BAUD = 921600
"""Of the serial line, where its user says no other: as `pi0-edge bridge` has it."""

_RATE_TOLERANCE = 0.01


def certify(result: BenchResult, robot: Robot, *, splice: str | None = None, baud: int = BAUD) -> Certificate:
    """With which replanning interval and splice a robot can run the policy that was measured.

    Args:
        result: A valid one, with a paced run.
        robot: That will run it; `latency.replan_ticks` of its file is the interval that it would like.
        splice: How chunks are to enter; the best that the policy allows where None.
        baud: Bits per second of the serial line to the firmware.

    Raises:
        BenchError: If the result does not carry a certificate, or no interval is short enough; the message says why,
            and what to do.
    """
    policy, rate = result.policy, robot.control_hz
    _require_valid(result)
    if rate is None or policy.control_hz is None or abs(rate / policy.control_hz - 1) > _RATE_TOLERANCE:
        raise BenchError(
            f"the policy acts {_text(policy.control_hz)} times per second, {robot.name} {_text(rate)} times; certify "
            "it for a robot of its rate"
        )
    run, latency = _paced(result)
    if latency.p99_ms is None:
        found = percentile_text(None, 0.99, latency.count)
        raise BenchError(f"the 99th percentile of {result.id} is {found}; run `pi0-edge bench` for longer")
    on_link = link_ticks(policy.horizon, len(robot.joints) or robot.action_dim, baud, rate)
    outside_ticks = 0.0 if result.boundary == Boundary.PATH else on_link
    delay = delay_of(latency.max_ms, rate, outside_ticks)
    wanted = REPLAN_TICKS if robot.latency is None or robot.latency.replan_ticks is None else robot.latency.replan_ticks
    interval = replan_interval(policy.horizon, delay, wanted)
    if interval is None:
        most = longest_latency_ms((policy.horizon - 1) // 2, rate, outside_ticks)
        raise BenchError(
            f"a chunk took {latency.max_ms:.4g} ms, and {robot.name} starves above {most:.4g} ms however often it "
            f"replans: two delays must fit in the {policy.horizon} actions of a chunk; use a faster engine or scheme"
        )
    _require_pace(run, max(interval, delay + 1) * 1000 / rate)
    state = result.readings[0].state if result.readings else None
    return Certificate(
        result=result.id,
        measured=result.started,
        bundle_sha256=policy.bundle_sha256,
        policy=policy.name,
        engine=policy.engine,
        scheme=policy.scheme,
        board="" if state is None else state.model,
        power_mode="" if state is None else state.power_mode,
        boundary=result.boundary,
        control_hz=rate,
        horizon=policy.horizon,
        samples=latency.count,
        p50_ms=latency.p50_ms,
        p99_ms=latency.p99_ms,
        longest_ms=latency.max_ms,
        link_ticks=on_link,
        replan_ticks=interval,
        splice=_splice(policy, delay, splice),
    )


def _require_valid(result: BenchResult) -> None:
    if not result.verdict.valid:
        reasons = "; ".join(result.verdict.reasons)
        raise BenchError(f"the result {result.id} is void ({reasons}); mend that and run `pi0-edge bench` again")
    if result.boundary not in set(Boundary) - {Boundary.ENGINE}:
        raise BenchError(
            f"the result {result.id} is of the boundary {result.boundary}, which does not contain what a robot feels; "
            "run `pi0-edge bench` with --boundary policy, served or path"
        )
    if not result.policy.bundle_sha256:
        raise BenchError(
            f"{result.policy.name} is no bundle ({result.policy.gate}): a certificate names the bundle that it is of; "
            "measure a bundle"
        )


def _paced(result: BenchResult) -> tuple[Run, Latency]:
    """The run in which observations are due at fixed times: a closed run hides what a robot waits for."""
    run = result.run("paced")
    if run is None or not len(run.samples):
        raise BenchError(
            f"the result {result.id} has no paced run, and a closed one hides the chunks that a stall delays; run "
            "`pi0-edge bench` with a paced run"
        )
    return run, Latency.of(run.samples.latency_ms.tolist())


def _require_pace(run: Run, interval_ms: float) -> None:
    """A policy that rests longer between two chunks than on the robot is cooler and less loaded than there."""
    period_ms = run.period_ms or float("inf")
    if period_ms > interval_ms * (1 + _RATE_TOLERANCE):
        raise BenchError(
            f"the paced run asked for a chunk every {period_ms:.4g} ms, and the robot asks every {interval_ms:.4g} ms: "
            f"run `pi0-edge bench` with a period of {interval_ms:.4g} ms or less"
        )


def _splice(policy: PolicyUnderTest, delay: int, wanted: str | None) -> str:
    """The best splice whose prefix is as long as the delay."""
    possible = [name for name in SPLICES if name != "trained-rtc" or policy.trained_delay >= max(delay, 1)]
    if wanted is not None and wanted not in possible:
        trained = f"prefixes of {policy.trained_delay} actions" if policy.trained_delay else "no frozen prefixes"
        raise BenchError(
            f"splice is {wanted!r}, expected one of {', '.join(possible)}: the policy was trained with {trained}, and "
            f"a chunk is up to {delay} ticks late"
        )
    return wanted or possible[0]


def _text(rate: float | None) -> str:
    return "an unknown number of" if rate is None else f"{rate:g}"
