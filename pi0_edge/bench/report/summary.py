"""A result for the terminal: a few tables and sentences as plain data, which the command line prints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pi0_edge.bench.figures import RunFigures, figures_of
from pi0_edge.bench.report.breakdown import breakdown
from pi0_edge.bench.report.path_rows import TITLE, path_rows
from pi0_edge.bench.report.wording import (
    ENERGY_COLUMNS,
    accuracy_text,
    boundary_text,
    counted,
    drift_text,
    duration,
    energy_rows,
    milliseconds,
    misses_text,
    percentiles,
    plain,
    policy_text,
    ratio_text,
    run_name,
    share,
    stalls_text,
    verdict_title,
    would_miss_text,
)
from pi0_edge.bench.result import BenchResult, Run
from pi0_edge.latency.stages import Stage

Timed = tuple[Run, RunFigures]


@dataclass(frozen=True)
class SummaryTable:
    """One table.

    Attributes:
        title: What it shows.
        columns: Their names.
        rows: As many cells in each as there are columns.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Summary:
    """What a person reads in the terminal, in the order of the attributes.

    Attributes:
        title: The verdict.
        opening: Why it is so, then what was measured, one line each.
        tables: The figures, where the time goes, and energy where the board tells it.
        lines: What the figures do not show, one sentence each.
    """

    title: str
    opening: tuple[str, ...]
    tables: tuple[SummaryTable, ...]
    lines: tuple[str, ...]


def summary(result: BenchResult) -> Summary:
    """The summary of a result; texts of others are free of characters that act on a terminal.

    Args:
        result: Of a bench, valid or void, with any number of runs and samples.
    """
    timed = [(run, figures_of(run)) for run in result.runs if len(run.samples)]
    tables = [_figures(result, timed)] if timed else []
    tables += [table for run, figures in timed if (table := _stages(result, run, figures)) is not None][:1]
    if result.path is not None:
        tables.append(SummaryTable(TITLE, ("", ""), tuple(path_rows(result.path))))
    if energy := energy_rows(result):
        tables.append(SummaryTable(f"Energy; {accuracy_text(result)}", ENERGY_COLUMNS, tuple(energy)))
    return Summary(verdict_title(result), tuple(_opening(result)), tuple(tables), tuple(_lines(result, timed)))


def _opening(result: BenchResult) -> Iterator[str]:
    yield from (f"not valid: {plain(reason)}" for reason in result.verdict.reasons)
    yield from (f"remark: {plain(remark)}" for remark in result.verdict.remarks)
    yield policy_text(result.policy)
    yield f"accuracy: {accuracy_text(result)}"
    yield boundary_text(result.boundary)
    if result.readings:
        state = result.readings[0].state
        words = [state.model, state.power_mode and f"power mode {state.power_mode}", state.release]
        if told := ", ".join(plain(word) for word in words if word):
            yield told
    if result.interference:
        yield f"beside it on purpose: {'; '.join(map(plain, result.interference))}"


def _figures(result: BenchResult, timed: list[Timed]) -> SummaryTable:
    told = [dict(percentiles(figures.latency)) for _, figures in timed]
    rows = [("chunks", *(f"{figures.latency.count:,}" for _, figures in timed))]
    rows += [(name, *(one[name] for one in told)) for name in told[0]]
    limits = (milliseconds(figures.misses.limit_ms) if figures.misses else "none known" for _, figures in timed)
    rows.append(("deadline", *limits))
    rows.append(("missed", *(misses_text(run, figures) for run, figures in timed)))
    rows.append(("stalled", *(f"{f.stalls:,} ({share(f.stalled_share)} of the time)" for _, f in timed)))
    title = f"latency; {accuracy_text(result)}"
    columns = ("", *(run_name(run) for run, _ in timed))
    return SummaryTable(title if result.verdict.valid else f"VOID {title}", columns, tuple(rows))


def _stages(result: BenchResult, run: Run, figures: RunFigures) -> SummaryTable | None:
    parts = breakdown(figures, result.estimate_ms)
    if not parts:
        return None
    rows: list[tuple[str, ...]] = []
    for part in parts:
        measured, expected = part.median_ms, part.estimate_ms
        rows.append(
            (
                plain(part.name),
                "not by itself" if measured is None else milliseconds(measured),
                "" if expected is None else milliseconds(expected),
                ratio_text(measured, expected) if part.ratio and measured is not None and expected else "",
            )
        )
    title = f"Where the time goes, {run_name(run)} (medians)"
    if not any(stage in result.estimate_ms for stage in Stage):
        return SummaryTable(f"{title}; no estimate of this device", ("stage", "measured"), tuple(r[:2] for r in rows))
    return SummaryTable(title, ("stage", "measured", "estimate", "ratio"), tuple(rows))


def _lines(result: BenchResult, timed: list[Timed]) -> Iterator[str]:
    if not timed:
        yield "No chunk was timed, so there is no figure to tell."
    for run, figures in timed:
        told = (stalls_text(figures), would_miss_text(figures), drift_text(figures))
        yield f"{run_name(run)}: {' '.join(filter(None, told))}"
    warm = result.warm_up
    cold = "it ran before" if warm.load_s is None else f"loading took {duration(warm.load_s)}"
    if warm.samples_ms:
        cold += f", the first chunk {milliseconds(warm.samples_ms[0])}"
        cold += f"; {counted(len(warm.samples_ms), 'chunk')} of warm-up are in no figure"
    yield f"cold start: {cold}"
    if not warm.over:
        yield "THE WARM-UP WAS NOT OVER: the latency was not steady when the timed runs began."
