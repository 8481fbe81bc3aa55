"""The parts of a chunk add up to it, and an estimate stands beside what it is an estimate of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bench_results import ESTIMATE_MS, bench_result, closed_run, samples

from pi0_edge.bench.figures import figures_of
from pi0_edge.bench.report.breakdown import BOTH, REST, breakdown
from pi0_edge.bench.result import Run
from pi0_edge.latency.stages import NETWORK, WHOLE_NETWORK, Stage


def names(run: Run, estimate: dict[str, float]) -> list[str]:
    return [part.name for part in breakdown(figures_of(run), estimate)]


def test_the_parts_follow_each_other_and_add_up_to_the_median() -> None:
    run = closed_run(300)
    parts = [part for part in breakdown(figures_of(run), {}) if not part.is_sum]
    assert [part.name for part in parts[:-1]] == [stage.value for stage in Stage if stage in run.samples.stages_ms]
    assert parts[-1].name == REST
    end = 0.0
    for part in parts:
        assert part.begin_ms == pytest.approx(end)
        end += part.median_ms or 0.0
    assert end == pytest.approx(figures_of(run).latency.p50_ms)


def test_the_ratio_is_measurement_over_estimate() -> None:
    result = bench_result()
    parts = {part.name: part for part in breakdown(figures_of(result.runs[0]), result.estimate_ms)}
    loop = parts[Stage.EULER]
    assert loop.ratio == pytest.approx((loop.median_ms or 0) / ESTIMATE_MS[Stage.EULER])
    assert parts[Stage.PREPROCESS].ratio is None, "nobody estimated it"
    assert parts[BOTH].estimate_ms == pytest.approx(sum(ESTIMATE_MS.values()))
    assert parts[BOTH].median_ms == pytest.approx(sum(parts[stage].median_ms or 0 for stage in NETWORK))


def test_a_sleep_in_one_stage_is_found_there() -> None:
    calm = closed_run(300)
    slow = replace(calm, samples=samples(300, None, dict.fromkeys(range(300), 12.0)))
    before, after = (
        {part.name: part.median_ms or 0.0 for part in breakdown(figures_of(run), {})} for run in (calm, slow)
    )
    grown = {name: after[name] - before[name] for name in before}
    assert grown.pop(Stage.EULER) == pytest.approx(12.0, rel=0.05)
    assert grown == pytest.approx(dict.fromkeys(grown, 0.0), abs=0.6)


def test_an_engine_that_runs_one_graph_is_compared_with_the_sum() -> None:
    run = closed_run(300)
    stages = run.samples.stages_ms
    known = {name: stages[name] for name in ("preprocess", "postprocess")}
    known[WHOLE_NETWORK] = np.sum([stages[stage] for stage in NETWORK], axis=0)
    bare = replace(run, samples=replace(run.samples, stages_ms=known))
    assert names(bare, ESTIMATE_MS) == ["preprocess", WHOLE_NETWORK, "postprocess", "not in a stage"]
    network = next(part for part in breakdown(figures_of(bare), ESTIMATE_MS) if part.ratio is not None)
    assert network.estimate_ms == pytest.approx(sum(ESTIMATE_MS.values()))
    assert (network.median_ms or 0) == pytest.approx(89.5, rel=0.02)


def test_a_stage_that_was_estimated_but_not_measured_is_shown() -> None:
    run = closed_run(300)
    known = {name: values for name, values in run.samples.stages_ms.items() if name != Stage.STATE}
    bare = replace(run, samples=replace(run.samples, stages_ms=known))
    part = next(part for part in breakdown(figures_of(bare), ESTIMATE_MS) if part.name == Stage.STATE)
    assert (part.median_ms, part.estimate_ms, part.ratio) == (None, ESTIMATE_MS[Stage.STATE], None)


def test_without_stages_and_estimate_there_is_nothing_to_show() -> None:
    run = closed_run(50)
    bare = replace(run, samples=replace(run.samples, stages_ms={}))
    assert names(bare, {}) == []
