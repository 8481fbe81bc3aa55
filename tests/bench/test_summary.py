"""The summary says the verdict first, does not hide stalls, and tells drift only where there is some."""

from __future__ import annotations

import re
from dataclasses import replace

import bench_results
import numpy as np
import pytest
from bench_results import bench_result, closed_run, paced_run

from pi0_edge.bench.figures import figures_of
from pi0_edge.bench.report.summary import Summary, summary
from pi0_edge.bench.result import BenchResult, Run


def texts(told: Summary) -> list[str]:
    cells = [cell for table in told.tables for row in (table.columns, *table.rows) for cell in row]
    return [told.title, *told.opening, *(table.title for table in told.tables), *cells, *told.lines]


def row(told: Summary, name: str) -> tuple[str, ...]:
    return next(row[1:] for row in told.tables[0].rows if row[0] == name)


@pytest.mark.parametrize("name", bench_results.ALL)
def test_every_row_has_a_cell_for_each_column(name: str) -> None:
    told = summary(bench_results.ALL[name]())
    assert all(len(cells) == len(table.columns) for table in told.tables for cells in table.rows)
    assert all(texts(told)[:2])


def test_a_void_result_says_so_first_and_why() -> None:
    result = bench_results.void_result()
    told = summary(result)
    assert told.title.startswith("VOID")
    assert [line.removeprefix("not valid: ") for line in told.opening[:2]] == list(result.verdict.reasons)
    assert told.tables[0].title.startswith("VOID")
    assert "GATE FAILED" in told.tables[0].title and "accept-failed-gate" in told.tables[0].title


def test_no_speed_stands_without_its_accuracy() -> None:
    for make in bench_results.ALL.values():
        for table in summary(make()).tables[:1]:
            assert "gate" in table.title.lower() and "vectors" in table.title.lower()


def test_figures_are_those_of_the_samples() -> None:
    result = bench_result()
    told = summary(result)
    for place, run in enumerate(result.runs):
        figures = figures_of(run)
        assert row(told, "chunks")[place] == f"{len(run.samples):,}"
        for name, value in (("p50", figures.latency.p50_ms), ("p99", figures.latency.p99_ms)):
            assert float(row(told, name)[place].split()[0]) == pytest.approx(value, rel=1e-3)
        assert float(row(told, "max")[place].split()[0]) == pytest.approx(run.samples.latency_ms.max(), rel=1e-3)


def test_few_samples_say_how_many_would_do() -> None:
    told = summary(bench_results.few_samples())
    assert [row(told, name)[0] for name in ("p90", "p99", "p99.9")] == [
        "not enough: 30 of 44 samples",
        "not enough: 30 of 459 samples",
        "not enough: 30 of 4603 samples",
    ]


def test_a_closed_run_does_not_hide_stalls() -> None:
    """Of 200 ms, 3 in 1300 chunks: p50, p90 and p99 know nothing of them."""
    calm, stalled = closed_run(1300), closed_run(1300, dict.fromkeys((100, 500, 900), 200.0))
    before, figures = figures_of(calm), figures_of(stalled)
    assert figures.latency.p99_ms == pytest.approx(before.latency.p99_ms, rel=0.01), "the percentile hides them"
    line = next(line for line in summary(bench_result([stalled])).lines if line.startswith("closed"))
    assert f"{figures.stalls} of 1,300 chunks stalled" in line and figures.stalls == 3
    share = float(re.findall(r": ([\d.]+) % of the time", line)[0])
    latency = stalled.samples.latency_ms
    assert share == pytest.approx(100 * latency[latency > 250].sum() / latency.sum(), rel=0.01)
    missed = int(re.findall(r"would have missed ([\d,]+) period", line)[0])
    assert missed == figures.would_miss == 3
    assert "No chunk of 1,300" in summary(bench_result([calm])).lines[0]


def test_a_paced_run_counts_what_it_skipped() -> None:
    run = paced_run(500, {100: 250.0})
    told = row(summary(bench_result([run])), "missed")[0]
    assert told == "4 of 503 periods (0.795 %): 1 late, 3 skipped"
    assert "would have missed" not in " ".join(summary(bench_result([run])).lines)


def with_slope(run: Run, slope: float) -> Run:
    """The same run, slower and slower."""
    samples = run.samples
    growth = np.linspace(0, slope, len(samples)) * (samples.end_ns - samples.due_ns)
    return replace(run, samples=replace(samples, end_ns=samples.end_ns + growth.astype(np.int64)))


@pytest.mark.parametrize(("slope", "word"), [(0.05, "slower"), (-0.05, "faster"), (0.0, "")])
def test_drift_is_told_only_where_it_is_real(slope: float, word: str) -> None:
    run = with_slope(closed_run(1200), slope)
    drift = figures_of(run).drift
    assert drift is not None and drift.is_real == bool(slope)
    line = summary(bench_result([run])).lines[0]
    assert ("last tenth" in line) == bool(slope)
    assert word in line


def test_a_warm_up_that_was_not_over_is_said_loudly() -> None:
    result = bench_result()
    cold = replace(result, warm_up=replace(result.warm_up, over=False))
    assert any("WARM-UP WAS NOT OVER" in line for line in summary(cold).lines)
    assert not any("WARM-UP WAS NOT OVER" in line for line in summary(result).lines)


def test_texts_of_others_do_not_act_on_the_terminal() -> None:
    hostile = "a\x1b[2J\x07\r\u202eb\ud800"
    result = hostile_everywhere(bench_result(), hostile)
    for text in texts(summary(result)):
        assert text.isprintable(), repr(text)
    assert "a�[2J���b�" in " ".join(summary(result).opening)


def hostile_everywhere(result: BenchResult, text: str) -> BenchResult:
    policy = replace(result.policy, name=text, scheme=text, engine=text, gate=text, overrides=(text,))
    verdict = replace(result.verdict, reasons=(text,), remarks=(text,))
    state = replace(result.readings[0].state, model=text, power_mode=text, release=text)
    readings = (replace(result.readings[0], state=state), *result.readings[1:])
    named = replace(result, boundary=text, interference=(text,), policy=policy, verdict=verdict, readings=readings)
    return replace(named, estimate_ms={text: 1.0})
