"""A result for people: one page of HTML that needs nothing else, neither a network nor its own script.

The verdict comes first, and no speed stands without its accuracy. The page carries the whole result as JSON, every
sample included, so that a reader can compute everything again. It allows itself nothing from outside: its policy of
content names the one script and the one style sheet by their hashes. The same result gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path

from pi0_edge.bench.figures import RunFigures, figures_of
from pi0_edge.bench.report import pictures
from pi0_edge.bench.report.board_rows import BoardRow, board_rows, busiest_processes
from pi0_edge.bench.report.breakdown import Part, breakdown
from pi0_edge.bench.report.path_rows import TITLE, path_rows
from pi0_edge.bench.report.wording import (
    ENERGY_COLUMNS,
    RULE,
    accuracy_text,
    boundary_text,
    counted,
    drift_text,
    duration,
    energy_rows,
    gate_text,
    kind_of,
    milliseconds,
    misses_text,
    overhead_text,
    percentiles,
    plain,
    ratio_text,
    run_name,
    run_text,
    share,
    stalls_text,
    verdict_title,
    would_miss_text,
)
from pi0_edge.bench.result import BenchResult, Run
from pi0_edge.bench.spans import span_of
from pi0_edge.errors import BenchError
from pi0_edge.synced_files import save_synced

DATA_ID = "result"
"""Of the element with the whole result as JSON."""

_MISSES_LISTED = 25
_NONE = "–"

Timed = tuple[Run, RunFigures]


def write_page(result: BenchResult, path: Path) -> None:
    """Writes the page, whole or not at all.

    Args:
        result: Of a bench, valid or void.
        path: Of the HTML file.

    Raises:
        BenchError: If it cannot be written.
    """
    try:
        save_synced(path, page(result).encode())
    except OSError as error:
        raise BenchError(f"{path} cannot be written ({error.strerror})") from error


def page(result: BenchResult) -> str:
    """The page as HTML."""
    timed = [(run, figures_of(run)) for run in result.runs if len(run.samples)]
    style, script = _asset("page.css"), _asset("page.js")
    allowed = f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    title = f"{result.policy.name}: {'valid' if result.verdict.valid else 'void'} latency"
    content = "\n".join(part for part in (_headline(result, timed), *_sections(result, timed)) if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{allowed}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n{content}\n</main>\n"
        f'<script type="application/json" id="{DATA_ID}">{_json(result)}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _headline(result: BenchResult, timed: Sequence[Timed]) -> str:
    policy, verdict = result.policy, result.verdict
    state = result.readings[0].state if result.readings else None
    board = state.model if state and state.model else "a board that was not read"
    css = "valid" if verdict.valid else "void"
    lead = f'<p class="kicker">pi0-edge bench · {_text(result.started)} · result {_text(result.id)}</p>'
    heading = f"<h1>{_text(policy.name)} <small>on {_text(board)}</small></h1>"
    banner = (
        f'<div class="verdict {css}"><strong>{_text(verdict_title(result))}</strong>'
        f"{_list(verdict.reasons, 'reasons')}{_list(verdict.remarks, 'remarks')}</div>"
    )
    cards = "".join(_card(result, run, figures) for run, figures in timed)
    if not timed:
        cards = '<p class="empty">No chunk was timed, so there is no figure to tell.</p>'
    facts = [
        ("policy", f"{policy.name}, bundle {policy.bundle_sha256[:16] or 'none: random weights'}"),
        ("accuracy", accuracy_text(result)),
        ("scheme", policy.scheme),
        ("engine", policy.engine + (f", {counted(policy.threads, 'thread')}" if policy.threads else "")),
        ("boundary", boundary_text(result.boundary)),
        *([("asked over", policy.protocol)] if policy.protocol else []),
        ("board", board),
        ("power mode", state.power_mode if state and state.power_mode else "the board has none, or was not read"),
        ("Euler steps", str(policy.euler_steps)),
        ("cameras", str(policy.cameras)),
        ("tokens", str(policy.tokens)),
        ("actions in a chunk", str(policy.horizon)),
        ("control rate", f"{policy.control_hz:g} Hz" if policy.control_hz else "not said by the bundle"),
    ]
    return f'<header>{lead}{heading}{banner}<div class="cards">{cards}</div>{_facts(facts)}</header>'


def _card(result: BenchResult, run: Run, figures: RunFigures) -> str:
    told = dict(percentiles(figures.latency))
    tail = "".join(
        f"<div><dt>{name}</dt><dd>{_figure(told[name])}</dd></div>" for name in ("p90", "p99", "p99.9", "max")
    )
    accuracy_css = "accuracy good" if result.policy.gate == "passed" and result.accuracy.passed else "accuracy"
    void, css = ("", "") if result.verdict.valid else ('<p class="stamp">void</p>', " untrue")
    return (
        f'<article class="card {kind_of(run)}{css}"><h2>{_text(run_name(run))}</h2>{void}'
        f'<p class="hero">{_text(told["p50"])} <small>median of {counted(figures.latency.count, "chunk")}</small></p>'
        f'<dl>{tail}</dl><p class="missed"><b>missed</b> {_text(misses_text(run, figures))}</p>'
        f'<p class="missed"><b>stalled</b> {figures.stalls:,} ({_text(share(figures.stalled_share))} of the time)</p>'
        f'<p class="{accuracy_css}">{_text(accuracy_text(result))}</p></article>'
    )


def _sections(result: BenchResult, timed: Sequence[Timed]) -> Iterable[str]:
    if timed:
        yield _section("Figures", _figures_table(result, timed) + f'<p class="note">{_text(RULE)}</p>')
        yield _section("Every chunk", "".join(_timeline(run, figures) for run, figures in timed))
        yield _section("Misses", "".join(_misses(run, figures) for run, figures in timed))
        yield _section("Histogram", "".join(_histogram(run, figures) for run, figures in timed))
        yield _section("Tail", _tail([run for run, _ in timed]))
        yield _section("Where the time goes", _stages(result, timed))
        yield _section("Euler steps", _euler(result, timed))
    if result.path is not None:
        yield _section(TITLE, _facts(path_rows(result.path)))
    yield _section("Warm-up and cold start", _warm_up(result))
    yield _section("Power, temperature and clocks", _board_over_time(result))
    yield _section("State of the board", _board_table(result))
    yield _section("Accuracy", _accuracy(result))
    yield _section("Beside it", _beside(result, timed))
    yield _section("Make it again", _again(result))


def _figures_table(result: BenchResult, timed: Sequence[Timed]) -> str:
    columns = ["", *(run_name(run) for run, _ in timed)]
    told = [dict(percentiles(figures.latency)) for _, figures in timed]
    rows = [["chunks", *(f"{figures.latency.count:,}" for _, figures in timed)]]
    rows.append(["mean", *(milliseconds(figures.latency.mean_ms) for _, figures in timed)])
    rows += [[name, *(one[name] for one in told)] for name in told[0]]
    limits = [milliseconds(figures.misses.limit_ms) if figures.misses else "none known" for _, figures in timed]
    rows.append(["deadline", *limits])
    rows.append(["missed", *(misses_text(run, figures) for run, figures in timed)])
    rows.append(["stalled", *(f"{f.stalls:,} ({share(f.stalled_share)} of the time)" for _, f in timed)])
    rows.append(["taken by the bench", *(overhead_text(run, figures) for run, figures in timed)])
    caption = f"Latency, {boundary_text(result.boundary)}. Accuracy: {accuracy_text(result)}."
    if not result.verdict.valid:
        caption = f"VOID, not to be told. {caption}"
    return _table(columns, rows, "numbers", caption)


def _timeline(run: Run, figures: RunFigures) -> str:
    told = (run_text(run), stalls_text(figures), would_miss_text(figures), drift_text(figures))
    text = " ".join(filter(None, told))
    legend = [(kind_of(run), "a chunk")]
    if figures.misses is not None:
        legend.append(("late", "later than the deadline"))
    if figures.stalls:
        legend.append(("stall", "stalled"))
    return _titled(run, f"<p>{_text(text)}</p>{_legend(legend)}{pictures.timeline(run, figures)}")


def _misses(run: Run, figures: RunFigures) -> str:
    misses = figures.misses
    if misses is None:
        told = f"No deadline is known: a closed run has none without a budget. {would_miss_text(figures)}"
        return _titled(run, f"<p>{_text(told)}</p>")
    text = f"Against {milliseconds(misses.limit_ms)}: {misses_text(run, figures)}."
    if not misses.count:
        return _titled(run, f"<p>{_text(text)}</p>")
    missed = pictures.missed_periods(run, misses.limit_ms)
    places = [int(place) for place in missed.nonzero()[0]]
    seconds, latency = pictures.due_s(run), run.samples.latency_ms
    rows = [
        [
            f"{seconds[place]:.3f} s",
            f"{place:,}",
            milliseconds(float(latency[place])),
            "yes" if latency[place] > misses.limit_ms else "",
            f"{run.samples.skipped[place]:,}" if run.samples.skipped[place] else "",
        ]
        for place in places[:_MISSES_LISTED]
    ]
    table = _table(["due at", "chunk", "took", "late", "skipped before it"], rows, "numbers")
    rest = len(places) - len(rows)
    more = f'<p class="note">{rest:,} more are in the data of this page.</p>' if rest else ""
    picture = pictures.misses_over_time(run, figures)
    folded = f"<details><summary>{_text(counted(len(places), 'moment'))} as a table</summary>{table}{more}</details>"
    return _titled(run, f"<p>{_text(text)}</p>{picture}{folded}")


def _histogram(run: Run, figures: RunFigures) -> str:
    return _titled(run, pictures.histogram(run, figures))


def _tail(runs: Sequence[Run]) -> str:
    text = (
        "Read across: so many of all chunks were at most so slow. Each step to the right is ten times rarer. To the "
        "right of the dotted line a curve is single chunks, of which no percentile can be told."
    )
    return f"<p>{_text(text)}</p>{pictures.tail(runs)}"


def _stages(result: BenchResult, timed: Sequence[Timed]) -> str:
    text = "Medians of the stages, one after another. "
    if result.estimate_ms:
        text += "The frame is what “pi0-edge estimate” expects of this device; the ratio is measured over expected."
    else:
        text += "No estimate is known of this device."
    return f"<p>{_text(text)}</p>" + "".join(_breakdown(result, run, figures) for run, figures in timed)


def _breakdown(result: BenchResult, run: Run, figures: RunFigures) -> str:
    parts = breakdown(figures, result.estimate_ms)
    if not parts:
        return _titled(run, '<p class="empty">This engine tells no stages, and no estimate is known.</p>')
    whole = max([figures.latency.p50_ms, *(p.begin_ms + max(p.median_ms or 0, p.estimate_ms or 0) for p in parts)])
    rows = "".join(_part(part, whole) for part in parts)
    columns = ("stage", "", "measured", "p99", "estimate", "ratio")
    head = "".join(f"<th>{column}</th>" for column in columns)
    legend = _legend([(kind_of(run), "measured"), *([("expected", "estimate")] if result.estimate_ms else [])])
    table = (
        f'<table class="waterfall"><thead><tr>{head}</tr></thead><tbody class="{kind_of(run)}">{rows}</tbody></table>'
    )
    return _titled(run, legend + table)


def _part(part: Part, whole: float) -> str:
    bars = ""
    if part.median_ms is not None and whole > 0:
        left, width = 100 * part.begin_ms / whole, 100 * part.median_ms / whole
        if width < 0:
            left, width = left + width, -width
        bars += f'<rect class="took" x="{left:.2f}%" width="{max(width, 0.15):.2f}%" y="4" height="12"/>'
    if part.estimate_ms is not None and whole > 0:
        place = f'x="{100 * part.begin_ms / whole:.2f}%" width="{max(100 * part.estimate_ms / whole, 0.15):.2f}%"'
        bars += f'<rect class="expected" {place} y="1" height="18"/>'
    told = dict(percentiles(part.latency)) if part.latency else {}
    ratio = ratio_text(part.median_ms, part.estimate_ms) if part.ratio and part.median_ms and part.estimate_ms else ""
    cells = [
        ("measured", "not by itself" if part.median_ms is None else milliseconds(part.median_ms)),
        ("p99", told.get("p99", "")),
        ("estimate", "" if part.estimate_ms is None else milliseconds(part.estimate_ms)),
        ("ratio", ratio),
    ]
    shown = "".join(f'<td class="number" data-name="{name}">{_figure(text)}</td>' for name, text in cells)
    svg = f'<svg width="100%" height="20" aria-hidden="true">{bars}</svg>'
    css = ' class="sum"' if part.is_sum else ""
    return f'<tr{css}><th scope="row">{_text(part.name)}</th><td class="bars">{svg}</td>{shown}</tr>'


def _euler(result: BenchResult, timed: Sequence[Timed]) -> str:
    charts = [(run, pictures.euler_steps(run, figures, result.policy.euler_steps)) for run, figures in timed]
    shown = "".join(_titled(run, chart) for run, chart in charts if chart)
    if not shown:
        return '<p class="empty">This engine runs its Euler steps as one; single steps are not known.</p>'
    return f"<p>The large dot is the median of a step, the line reaches to its slowest.</p>{shown}"


def _warm_up(result: BenchResult) -> str:
    warm = result.warm_up
    over = "the latency was steady" if warm.over else "THE LATENCY WAS NOT STEADY YET"
    told = "It ran before. " if warm.load_s is None else f"Loading took {duration(warm.load_s)}. "
    if warm.samples_ms:
        cold, last = milliseconds(warm.samples_ms[0]), milliseconds(warm.samples_ms[-1])
        told += f"The first chunk took {cold}, the last of {counted(len(warm.samples_ms), 'chunk')} {last}; "
        told += f"then {over}. None of them is in the figures above."
    else:
        told += "No chunk was made to warm up."
    return f"<p>{_text(told)}</p>{pictures.warm_up(result)}"


def _board_over_time(result: BenchResult) -> str:
    wanted = (
        ("rails_mw", "power, W", "This board has no power rails that can be read."),
        ("temperatures_c", "temperature, °C", "This board tells no temperatures."),
        ("clocks_mhz", "clock, MHz", "This board tells no clocks."),
    )
    shown = ""
    for field, title, missing in wanted:
        chart = pictures.over_time(result, field, title)
        shown += chart or f'<p class="empty">{_text(missing)}</p>'
        if others := pictures.left_out(result, field):
            shown += f'<p class="note">{_text(", ".join(map(plain, others)))}: in the table below.</p>'
    if any(reading.state.throttling for reading in result.readings):
        shown = f'<p class="alarm">The board throttled where the background is orange.</p>{shown}'
    return shown + _energy(result)


def _energy(result: BenchResult) -> str:
    rows = energy_rows(result)
    if not rows:
        return ""
    text = "Energy of whole groups of rails, which are never added to each other; none of them is a meter at the wall."
    return f"<h3>Energy</h3><p>{_text(text)}</p>{_table(ENERGY_COLUMNS, rows, 'numbers')}"


def _board_table(result: BenchResult) -> str:
    rows = board_rows(result.readings, [span_of(run) for run in result.runs if len(run.samples)])
    if not rows:
        return '<p class="empty">The board was not read.</p>'
    text = f"{counted(len(result.readings), 'reading')}. What changed or gave an alarm is marked."
    columns = "".join(f'<th scope="col">{column}</th>' for column in ("", "before", "during", "after"))
    body = "".join(_board_row(row) for row in rows)
    table = f'<table class="state"><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>'
    return f'<p>{_text(text)}</p><div class="scroll">{table}</div>'


def _board_row(row: BoardRow) -> str:
    """What stayed the same stands once, across all three columns."""
    css = ' class="changed"' if row.changed else ""
    same = row.before == row.after and row.during in (row.before, "")
    cells = (row.before, row.during, row.after)
    shown = (
        f'<td colspan="3">{_text(row.before)}</td>' if same else "".join(f"<td>{_text(cell)}</td>" for cell in cells)
    )
    return f'<tr{css}><th scope="row">{_text(row.name)}</th>{shown}</tr>'


def _accuracy(result: BenchResult) -> str:
    told = f"<p>{_text(gate_text(result.policy))}.</p>"
    findings = (("before the timed runs", result.accuracy.before), ("after them", result.accuracy.after))
    shown = "".join(f"<h3>Self-test vectors {when}</h3>{_list(lines)}" for when, lines in findings if lines)
    return told + (shown or '<p class="empty">There were no self-test vectors to run.</p>')


def _beside(result: BenchResult, timed: Sequence[Timed]) -> str:
    clock = result.clock
    other = busiest_processes(result.readings)
    processes = "; ".join(f"{plain(name)} {seconds:.3g} s of a processor" for name, seconds in other)
    taken = "; ".join(f"{kind_of(run)}: {overhead_text(run, figures)}" for run, figures in timed)
    facts = [
        ("interference on purpose", "; ".join(map(plain, result.interference)) or "none"),
        ("busiest other processes", processes or "none that worked"),
        ("taken by the bench", taken or _NONE),
        ("clock", f"{clock.name}, uncertain by {clock.uncertainty_us:.3g} µs"),
        ("trouble with the clock", clock.problem or "none"),
        ("software", ", ".join(f"{name} {version}" for name, version in result.software.items()) or _NONE),
    ]
    return _facts(facts)


def _again(result: BenchResult) -> str:
    told = (
        "This page carries the whole result, every sample included, as the same JSON that lies beside it: in the "
        f"element script#{DATA_ID} at its end."
    )
    turns = f" Its chunks were taken in turns with those of the other results of the session {result.session}."
    paired = "" if result.session == result.id else turns
    button = '<p><button type="button" id="save" hidden="">Save the data</button></p>'
    command = shlex.join(map(plain, result.command))
    return f"<pre>{_text(command)}</pre><p>{_text(told + paired)}</p>{button}"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{content}</section>" if content else ""


def _titled(run: Run, content: str) -> str:
    return f"<h3>{_text(run_name(run))}</h3>{content}" if content else ""


def _facts(pairs: Iterable[tuple[str, str]]) -> str:
    return (
        '<dl class="facts">' + "".join(f"<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>" for k, v in pairs) + "</dl>"
    )


def _list(lines: Sequence[str], css: str = "") -> str:
    return f'<ul class="{css}">{"".join(f"<li>{_text(line)}</li>" for line in lines)}</ul>' if lines else ""


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    dot = '<svg width="12" height="12" aria-hidden="true"><circle cx="6" cy="6" r="4"/></svg>'
    return (
        '<p class="legend">'
        + "".join(f'<span class="key {css}">{dot}{_text(name)}</span>' for css, name in entries)
        + "</p>"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], css: str, caption: str = "") -> str:
    head = "".join(f'<th scope="col">{_text(column)}</th>' for column in columns)
    cells = ("".join(f"<td>{_figure(cell)}</td>" for cell in row[1:]) for row in rows)
    body = "".join(
        f'<tr><th scope="row">{_text(row[0])}</th>{shown}</tr>' for row, shown in zip(rows, cells, strict=True)
    )
    title = f"<caption>{_text(caption)}</caption>" if caption else ""
    rows_of = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table class="{css}">{title}{rows_of}</table></div>'


def _figure(text: str) -> str:
    """A figure, or why there is none in smaller letters."""
    return f'<span class="untold">{_text(text)}</span>' if text.startswith("not enough") else _text(text)


def _text(text: object) -> str:
    return escape(plain(text))


def _json(result: BenchResult) -> str:
    """The result for the inside of a script element, which nothing in it can end."""
    text = json.dumps(result.to_dict(), separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _asset(name: str) -> str:
    return (resources.files("pi0_edge.bench.report") / name).read_text()


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
