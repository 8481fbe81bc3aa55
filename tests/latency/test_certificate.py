"""The serving certificate against a simulated ring of setpoints, with the scheduler of the robot; and its file."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.replanning import ChunkScheduler
from firmware_bridge.splice import GUARD_TICKS, HoldSwap
from pi0_edge.errors import BenchError
from pi0_edge.latency.certificate import (
    Certificate,
    certificate_file,
    delay_of,
    load_certificate,
    longest_delay,
    longest_latency_ms,
    parse_certificate,
    replan_interval,
)

WIRE_TICKS = 0.4
LINK_TICKS = 1 + WIRE_TICKS + GUARD_TICKS
CERTIFICATE = Certificate(
    result="0123456789abcdef",
    measured="2026-11-27T12:00:00+00:00",
    bundle_sha256="ab" * 32,
    policy="cups",
    engine="cuda",
    scheme="orin",
    board="NVIDIA Jetson AGX Orin Developer Kit",
    power_mode="0 MAXN",
    boundary="served",
    control_hz=50.0,
    horizon=50,
    samples=1000,
    p50_ms=90.0,
    p99_ms=110.0,
    longest_ms=130.0,
    link_ticks=LINK_TICKS,
    replan_ticks=25,
    splice="rtc",
)


def entry_tick(boundary: str, observed: int, place: float, latency_ticks: float) -> int:
    """The first tick that a chunk determines, as `ChunkPlayer` computes it; for the path, as a stop watch would see it.

    Args:
        boundary: Of the latency.
        observed: Tick of the observation.
        place: Where in that tick the observation was taken, 0 to below 1.
        latency_ticks: Of the chunk.
    """
    there = observed + place + latency_ticks
    if boundary == "path":
        return max(observed + 1, math.floor(there))
    return math.ceil(there + WIRE_TICKS) + GUARD_TICKS


def starved_ticks(found: Certificate, latencies_ms: list[float], places: list[float]) -> tuple[int, int]:
    """Ticks without a setpoint once the first chunk was there, and the oldest observation behind a tick, in ticks.

    The ring of setpoints of a robot with the scheduler of `pi0-edge run`: the k-th chunk takes `latencies_ms[k]`, its
    observation is taken at `places[k]` of its tick, and the scheduler learns of it a tick before it enters.
    """
    scheduler = ChunkScheduler(HoldSwap(), found.replan_ticks)
    chunks, arriving = iter(zip(latencies_ms, places, strict=True)), None
    observed, starved, oldest, begun = 0, 0, 0, False
    tick = 0
    while True:
        if scheduler.due(tick):
            if (drawn := next(chunks, None)) is None:
                return starved, oldest
            scheduler.observe(tick)
            observed = tick
            arriving = entry_tick(found.boundary, tick, drawn[1], drawn[0] / found.tick_ms)
        if arriving is not None and tick >= arriving - 1:
            rows = np.full((found.horizon, 1), float(observed))
            if arriving <= observed + found.horizon:
                scheduler.entered(rows, arriving)
            else:
                scheduler.lost()  # every action was past due
            begun, arriving = True, None
        tick += 1
        setpoint = scheduler.setpoint(tick)
        if begun and setpoint is None:
            starved += 1
        elif setpoint is not None:
            oldest = max(oldest, tick - int(setpoint[0]))


@st.composite
def certificates(draw: Any) -> Certificate:
    """Of any robot for which there is one."""
    horizon, rate = draw(st.integers(8, 64)), draw(st.sampled_from([10.0, 20.0, 50.0, 100.0]))
    boundary = draw(st.sampled_from(["policy", "served", "path"]))
    outside = 0.0 if boundary == "path" else LINK_TICKS
    most = longest_latency_ms((horizon - 1) // 2, rate, outside)
    longest = draw(st.floats(0.01, 1.0)) * max(most, 0.01)
    replan = replan_interval(horizon, delay_of(longest, rate, outside), draw(st.integers(1, 80)))
    if replan is None or most <= 0:
        horizon, longest, replan = 64, 1.0, 25
    changes = {"horizon": horizon, "control_hz": rate, "boundary": boundary, "replan_ticks": replan}
    return dataclasses.replace(CERTIFICATE, **changes, p50_ms=longest, p99_ms=longest, longest_ms=longest)


@settings(max_examples=60, deadline=None)
@given(certificates(), st.integers(0, 2**32))
def test_no_latency_up_to_the_certified_one_starves_the_ring_nor_ages_more_than_certified(found, seed: int):
    drawn = random.Random(seed)
    most = found.starves_above_ms
    latencies = [drawn.choice([most, drawn.uniform(0, most)]) for _ in range(120)]
    places = [drawn.choice([0.0, drawn.random(), 1 - 1e-12]) for _ in latencies]
    starved, _ = starved_ticks(found, latencies, places)
    assert starved == 0
    measured = [min(latency, found.longest_ms) for latency in latencies]
    starved, oldest = starved_ticks(found, measured, places)
    assert starved == 0 and oldest * found.tick_ms <= found.worst_age_ms + 1e-6


@settings(max_examples=60, deadline=None)
@given(certificates(), st.floats(0.001, 3.0))
def test_two_chunks_above_the_certified_latency_starve_the_ring(found, ticks_above: float):
    """After many short ones, of which the scheduler expects another, at the end of the tick of the observation."""
    above = found.starves_above_ms + ticks_above * found.tick_ms
    latencies = [*([0.0] * 210), above, above, *([0.0] * 3)]
    starved, _ = starved_ticks(found, latencies, [1 - 1e-12] * len(latencies))
    assert starved > 0


@settings(max_examples=60, deadline=None)
@given(certificates())
def test_the_worst_age_is_reached(found):
    latencies = [found.longest_ms] * 12
    _, oldest = starved_ticks(found, latencies, [1 - 1e-12] * len(latencies))
    assert oldest * found.tick_ms == pytest.approx(found.worst_age_ms)


@given(st.integers(0, 200), st.sampled_from([10.0, 30.0, 50.0, 200.0]), st.floats(0, 5))
def test_a_latency_and_its_delay_are_each_others_inverse(delay: int, rate: float, link: float):
    latency = longest_latency_ms(delay, rate, link)
    assert delay_of(latency, rate, link) == delay
    assert delay_of(latency + 0.001 * 1000 / rate, rate, link) == delay + 1


@given(st.integers(1, 100), st.integers(0, 120), st.integers(1, 150))
def test_the_interval_is_the_one_wanted_or_the_longest_that_does_not_starve(horizon: int, delay: int, wanted: int):
    found = replan_interval(horizon, delay, wanted)
    never = [r for r in range(1, wanted + 1) if max(r, delay + 1) + delay <= horizon]
    assert found == (never[-1] if never else None)
    if found is not None:
        assert delay <= longest_delay(horizon, found)


def test_the_figures_of_a_robot_by_hand():
    """130 ms are 6.5 ticks, with the link 9.9: the chunk enters 10 ticks after its observation, with a delay of 9."""
    assert (CERTIFICATE.delay_ticks, CERTIFICATE.longest_delay_ticks) == (8, 9)
    assert CERTIFICATE.margin_ticks == 24 - 9
    assert CERTIFICATE.starves_above_ms == pytest.approx((25 - LINK_TICKS) * 20)
    assert CERTIFICATE.margin_ms == pytest.approx((25 - LINK_TICKS) * 20 - 130)
    assert CERTIFICATE.worst_age_ms == (25 + 9) * 20
    assert CERTIFICATE.budget_ms == CERTIFICATE.starves_above_ms
    path = dataclasses.replace(CERTIFICATE, boundary="path", longest_ms=200.0)
    assert path.longest_delay_ticks == 9 and path.starves_above_ms == 25 * 20
    assert path.budget_ms == CERTIFICATE.budget_ms


def test_what_a_run_recorded_is_within_what_the_formulae_say():
    """docs/run.md: chunks after 95 ms at most entered 8 ticks after their observation, which became 640 ms old."""
    found = dataclasses.replace(CERTIFICATE, p50_ms=48, p99_ms=82, longest_ms=95, link_ticks=1 + 0.88 + GUARD_TICKS)
    assert 8 - 1 <= found.delay_ticks <= found.longest_delay_ticks == 8
    assert 640 <= found.worst_age_ms == 660


def test_a_file_holds_it(tmp_path: Path):
    file = certificate_file(tmp_path / "bundles" / "cups")
    assert file == tmp_path / "bundles" / "cups.certificate.json"
    file.parent.mkdir()
    CERTIFICATE.save(file)
    assert load_certificate(file) == CERTIFICATE
    read = json.loads(file.read_text())
    assert (read["schema"], read["version"]) == ("pi0-edge-serving-certificate", 1)
    assert read["follows"]["worst_age_ms"] == CERTIFICATE.worst_age_ms
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path):
    with pytest.raises(BenchError, match="cannot be written"):
        CERTIFICATE.save(tmp_path / "missing" / "cups.certificate.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "pi0-edge-bench"}, "pi0-edge-bench version 1, expected pi0-edge-serving-certificate version 1"),
        ({"version": 2}, "version 2, expected"),
        ({"p99_ms": None}, "is incomplete"),
        ({"p99_ms": "fast"}, "is incomplete"),
        ({"p99_ms": 20}, "expected to rise"),
        ({"control_hz": 0}, "a rate above 0"),
        ({"longest_ms": float("nan")}, "expected finite ones"),
        ({"horizon": 0}, "expected 1 or more"),
        ({"replan_ticks": 0}, "expected 1 or more"),
        ({"boundary": "engine"}, "its boundary is 'engine'"),
        ({"splice": "average"}, "its splice is 'average'"),
        ({"longest_ms": 433}, "the ring of setpoints starves above 432 ms, and a chunk took 433 ms"),
        ({"replan_ticks": 42}, "starves"),
        ({"link_ticks": 60}, "starves"),
        ({"link_ticks": -1}, "expected finite ones"),
    ],
)
def test_a_file_that_says_what_cannot_be_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(BenchError, match=f"^cups.*{message}"):
        parse_certificate({**CERTIFICATE.to_dict(), **changes}, "cups")


def test_what_follows_is_computed_and_not_believed():
    read = CERTIFICATE.to_dict()
    read["follows"]["margin_ms"] = 1e6
    assert parse_certificate(read, "cups").margin_ms == CERTIFICATE.margin_ms


@given(
    st.dictionaries(
        st.sampled_from(list(CERTIFICATE.to_dict())), st.none() | st.text() | st.floats() | st.lists(st.none())
    )
)
def test_no_content_ends_in_anything_but_a_bench_error(changes: dict[str, Any]):
    try:
        parse_certificate({**CERTIFICATE.to_dict(), **changes}, "cups")
    except BenchError as error:
        assert str(error).startswith("cups")


@pytest.mark.parametrize(
    ("here", "words"),
    [
        ({}, ""),
        ({"bundle_sha256": "ab" * 32, "engine": "cuda", "scheme": "orin", "horizon": 50, "control_hz": 50.0}, ""),
        ({"board": CERTIFICATE.board, "power_mode": "0 MAXN"}, ""),
        ({"bundle_sha256": "cd" * 32}, "the bundle abababababab (cups), and this is the bundle cdcdcdcdcdcd"),
        ({"bundle_sha256": ""}, "this is a policy without a bundle"),
        ({"engine": "cpu"}, "of the engine cuda, and here it is cpu"),
        ({"scheme": "bf16"}, "of the scheme orin, and here it is bf16"),
        ({"horizon": 16}, "of the horizon 50, and here it is 16"),
        ({"control_hz": 30.0}, "a robot with 50 ticks per second, and this one has 30"),
        ({"board": "a PC"}, "of the computer NVIDIA Jetson AGX Orin Developer Kit, and here it is a PC"),
        ({"power_mode": "2 MODE_30W"}, "of the power mode 0 MAXN, and here it is 2 MODE_30W"),
    ],
)
def test_it_says_where_it_is_of_something_else(here: dict[str, Any], words: str):
    found = list(CERTIFICATE.differences(**here))
    assert len(found) == bool(words) and words in "".join(found)
