"""The figures of a run, from a record whose answers are known, and the record's way to disk and back."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from pi0_edge.demo.plots import plot_film, plot_joints, shown_episode
from pi0_edge.demo.run_record import RecordBuilder, RunRecord
from pi0_edge.demo.summary import Percentiles, SchemeAccuracy, summarize
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import Fault, State, TickFlag

ARM = [0, 1]
NO_ERROR = SchemeAccuracy("int8-w8a8", 0, 1.0, 1.0, 0.0, 0.0)


def record(ticks: int = 20) -> RunRecord:
    """One episode: a chunk for an observation at tick 100 enters at tick 103; joint 1 runs 0.01 behind."""
    builder = RecordBuilder()
    ramp = np.arange(50, dtype=np.float32)[:, None] * np.ones(14, np.float32) / 100
    for k in range(ticks):
        executed = np.zeros(14, np.float32) if k < 3 else ramp[k - 1] - np.eye(14, dtype=np.float32)[1] * 0.01
        builder.add(
            tick=100 + k, tick_episode=0, tick_counter_s=2.0 + 0.02 * k + (0.001 if k == 5 else 0), lag_ms=1.0,
            tick_state=State.RUNNING, tick_flags=TickFlag.EXECUTED, tick_faults=0, tick_ring_level=40,
            tick_chunk=0 if k < 3 else 1, tick_observed=0 if k < 3 else 100, executed=executed,
            measured=executed - np.eye(14, dtype=np.float32)[0] * 0.001 * k, measurement_age_ms=8.0 + 4.0 * (k == 7),
        )  # fmt: skip
    builder.add(
        chunk_episode=0, chunk_tick=100, chunk_first_tick=103, chunk_outcome=ChunkReport.ACCEPTED, actions=ramp,
        chunk_begin_ns=10**9, chunk_received_ns=10**9 + 30_000_000, chunk_confirmed_ns=10**9 + 50_000_000,
        chunk_stages_ms=[2.0, 25.0, 1.0, 0.5, 15.0], state=np.zeros(14, np.float32),
        image=np.zeros((8, 8, 3), np.uint8),
    )  # fmt: skip
    for k in range(7):
        builder.add(film=np.zeros((24, 32, 3), np.uint8), film_tick=100 + 2 * k, film_episode=0)
    builder.add(seed=7, success=True, episode_ticks=ticks, bus_errors=3)
    return builder.build()


def test_commanded_is_the_action_that_is_due_and_nothing_before_the_chunk_entered():
    ticks, wanted = record().commanded(0)
    assert ticks.tolist() == list(range(100, 120))
    assert np.isnan(wanted[:3]).all()
    assert wanted[3:, 0] == pytest.approx([k / 100 for k in range(2, 19)])


def test_a_newer_chunk_replaces_what_the_older_one_wanted_from_its_entry_on():
    run = record()
    newer = replace(
        run,
        chunk_episode=np.array([0, 0], np.int32),
        chunk_tick=np.array([100, 110], np.uint32),
        chunk_first_tick=np.array([103, 115], np.uint32),
        actions=np.concatenate([run.actions, run.actions + 5]),
    )
    _, wanted = newer.commanded(0)
    assert wanted[14, 0] == pytest.approx(0.13) and wanted[15, 0] == pytest.approx(5.04)


def test_summary_figures():
    summary = summarize(record(), NO_ERROR, 50.0, ARM, 25)
    assert (summary.episodes, summary.successes, summary.chunks_entered) == (1, 1, 1)
    assert summary.episode_seconds == [0.4]
    assert summary.tick_period_ms == pytest.approx(20.0)
    assert summary.tick_jitter_ms.max == pytest.approx(1.0, abs=1e-6)
    ages = [20.0 * k for k in range(3, 20)]  # of the ticks from 103 on, which the observation at 100 caused
    assert summary.age_of_information_ms == Percentiles.of(np.array(ages))
    assert (summary.age_of_information_ms.p50, summary.age_of_information_ms.max) == (220.0, 380.0)
    assert summary.tracking_error_rad.max == pytest.approx(0.01, abs=1e-6)
    assert summary.following_error_rad.max == pytest.approx(0.019, abs=1e-6)
    assert (summary.measurement_age_ms.p50, summary.measurement_age_ms.max, summary.bus_errors) == (8.0, 12.0, 3)
    assert summary.faults == [] and summary.starved_ticks == 0 and summary.ticks_lost == 0


def test_latencies_are_told_as_a_bench_tells_them():
    summary = summarize(record(), NO_ERROR, 50.0, ARM, 25)
    assert summary.ring_ms is not None
    assert (summary.chunk_ms.p50, summary.ring_ms.p50, summary.ring_ms.p90) == (30.0, 50.0, None)
    medians = {name: stage.p50 for name, stage in summary.stages_ms.items()}
    assert medians == {
        **{"preprocess": 2.0, "network": 25.0, "postprocess": 1.0, "splice": 0.5, "serial": 15.0},
        "transport": 6.5,
    }
    assert summary.late_chunks == 0
    assert summarize(record(), NO_ERROR, 50.0, ARM, 2).late_chunks == 1


def test_a_run_without_a_confirmed_chunk_has_no_latency_until_the_confirmation():
    run = record()
    refused = replace(run, chunk_outcome=np.full_like(run.chunk_outcome, ChunkReport.REJECTED))
    summary = summarize(refused, NO_ERROR, 50.0, ARM, 25)
    assert (summary.ring_ms, summary.stages_ms, summary.chunk_ms.p50) == (None, {}, 30.0)


def test_lost_ticks_starvation_and_faults_are_counted():
    run = record()
    keep = np.arange(20) != 10
    flags, faults = run.tick_flags.copy(), run.tick_faults.copy()
    flags[15:] = TickFlag.STARVED
    faults[19] = Fault.STARVATION
    damaged = replace(run, tick_flags=flags, tick_faults=faults)
    per_tick = [f.name for f in fields(RunRecord) if len(getattr(run, f.name)) == 20]
    damaged = replace(damaged, **{name: getattr(damaged, name)[keep] for name in per_tick})
    summary = summarize(damaged, NO_ERROR, 50.0, ARM, 25)
    assert summary.ticks_lost == 1 and summary.starved_ticks == 5 and summary.faults == ["STARVATION"]


def test_record_survives_the_disk(tmp_path):
    run = record()
    run.save(tmp_path / "record.npz")
    loaded = RunRecord.load(tmp_path / "record.npz")
    for f in fields(RunRecord):
        before, after = getattr(run, f.name), getattr(loaded, f.name)
        assert before.dtype == after.dtype and np.array_equal(before, after, equal_nan=True), f.name


def test_plots_are_written(tmp_path):
    run = record()
    assert shown_episode(run) == 0
    plot_film(run, tmp_path / "film.png")
    plot_joints(run, tmp_path / "joints.png")
    assert all((tmp_path / name).stat().st_size > 1_000 for name in ("film.png", "joints.png"))
