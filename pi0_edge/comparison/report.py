"""The report of a comparison: one HTML page, the same tables as Markdown, and all figures as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from pi0_edge.board.identity import model as machine_name
from pi0_edge.comparison import plots
from pi0_edge.comparison.figures import Row, row_of
from pi0_edge.comparison.places import Places
from pi0_edge.comparison.plan import EXPERTS_ALONE, Plan, command_of
from pi0_edge.comparison.tables import (
    Table,
    clock_table,
    cost_table,
    percent,
    success_table,
    training_table,
    ways_table,
)
from pi0_edge.errors import ConfigError
from pi0_edge.json_files import read_json_object
from pi0_edge.pages import html
from pi0_edge.synced_files import save_synced

TITLE = "Action heads, compared"
AGAIN = "delete it and run the command again"
"""What helps against a damaged result."""
CAVEAT = (
    "These are heads, re-implemented on one small shared backbone and trained for minutes. They are not RT-2, Octo or "
    "TinyVLA, and their figures say nothing of those models' success: they say what a head of that form costs and does "
    "with the same features, the same data and the same training time."
)


@dataclasses.dataclass(frozen=True)
class Found:
    """Everything that was measured.

    Attributes:
        plan: What was compared.
        machine: Where, in words.
        rows: Of all tasks, heads and decodings.
        cells: What every cell's training gave.
        latency: Of every head and decoding.
        clocks: Of every head that played through the firmware.
    """

    plan: Plan
    machine: str
    rows: tuple[Row, ...]
    cells: tuple[dict[str, Any], ...]
    latency: tuple[dict[str, Any], ...]
    clocks: tuple[dict[str, Any], ...]


def read_found(plan: Plan, places: Places) -> Found:
    """Reads all results of a finished comparison.

    Raises:
        ConfigError: If one is missing.
    """
    rows = [
        row_of([_read(places.played(task, variant, seed, decoding)) for seed in plan.seeds])
        for task in plan.tasks
        for variant in plan.variants
        for decoding in variant.decodings
    ]
    clocks = [places.clock(variant) / "clock.json" for variant in plan.variants]
    return Found(
        plan,
        machine_name(Path("/")),
        tuple(rows),
        tuple(_read(places.cell(*cell) / "cell.json") for cell in plan.cells()),
        tuple(json.loads(places.latency.read_text())),
        tuple(_read(path) for path in clocks if path.exists()),
    )


def write_report(plan: Plan, places: Places) -> dict[str, Any]:
    """Writes report.html, report.md and report.json, and returns the content of the last.

    Raises:
        ConfigError: If a result is missing.
    """
    found = read_found(plan, places)
    content = {
        "plan": plan.to_dict(),
        "machine": found.machine,
        "rows": [dataclasses.asdict(row) for row in found.rows],
        "cells": list(found.cells),
        "latency": list(found.latency),
        "clock": list(found.clocks),
    }
    save_synced(places.root / "report.json", json.dumps(content, indent=2).encode())
    save_synced(places.root / "report.html", as_html(found).encode())
    save_synced(places.root / "report.md", as_markdown(found).encode())
    return content


def as_html(found: Found) -> str:
    """The report as one page that needs nothing else."""
    tasks = [task.name for task in found.plan.tasks]
    body = [
        f'<header class="plain"><h1>{escape(TITLE)}</h1><p>{escape(CAVEAT)}</p></header>',
        html.section("What was done", html.definitions(facts(found))),
        html.section("Success at a glance", plots.success_plot(tasks, found.rows)),
    ]
    for task in tasks:
        rows = [row for row in found.rows if row.task == task]
        curves = plots.steps_plot(task, rows) + plots.speed_plot(rows, found.latency, task)
        body.append(_section(success_table(task, rows), curves))
    ways = [row for row in found.rows if row.ways is not None]
    if ways:
        body.append(_section(ways_table(ways), plots.ways_plot(ways)))
    body += [_section(table) for table in _last_tables(found)]
    return html.page(TITLE, "\n".join(body))


def as_markdown(found: Found) -> str:
    """The same without plots."""
    parts = [f"# {TITLE}", CAVEAT, "\n".join(f"- {name}: {value}" for name, value in facts(found))]
    tables = [success_table(t.name, [row for row in found.rows if row.task == t.name]) for t in found.plan.tasks]
    ways = [row for row in found.rows if row.ways is not None]
    tables += [ways_table(ways)] if ways else []
    for table in (*tables, *_last_tables(found)):
        parts += [f"## {table.title}", table.text, markdown_table(table)]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """A table of Markdown."""
    lines = [table.columns, tuple("---" for _ in table.columns), *table.rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def facts(found: Found) -> list[tuple[str, str]]:
    """What was done, as (name, value) in words."""
    plan = found.plan
    facts = [
        ("command", command_of(plan)),
        ("machine", found.machine),
        ("seeds of training", ", ".join(map(str, plan.seeds))),
        ("batch", f"{plan.batch} observations, one noise draw each"),
        (
            "learning rates tried",
            f"{', '.join(f'{rate:g}' for rate in plan.rates)}, in trainings shorter than a cell's",
        ),
        (
            "chunk not as published",
            ", ".join(one.name for one in (*plan.variants, *plan.timed) if not one.published) or "none",
        ),
    ]
    for task in plan.tasks:
        start = ["from the shipped policy"] if plan.from_shipped else []
        vision = [f"vision alone {task.vision_s:g} s"] if task.vision_s else []
        alone = f"experts and heads alone for the first {percent(EXPERTS_ALONE)} of it"
        heads = f"all heads in turn {task.backbone_s:g} s ({alone})"
        backbone = ", then ".join((*start, *vision, heads, "frozen"))
        cells = f"{task.tuning_s:g} s for each learning rate, {task.cell_s:g} s for each cell, of one thread"
        told = f"{task.episodes} demonstrations; backbone: {backbone}; training: {cells}; {task.scenes} scenes"
        facts.append((task.name, told))
    return facts


def _last_tables(found: Found) -> Sequence[Table]:
    clocks = [clock_table(found.plan, found.clocks)] if found.clocks else []
    return cost_table(found.latency), *clocks, training_table(found.cells)


def _section(table: Table, plot: str = "") -> str:
    rows = [[escape(cell) for cell in row] for row in table.rows]
    content = f'<p>{escape(table.text)}</p><div class="scrolled">{html.table(table.columns, rows)}</div>{plot}'
    return html.section(table.title, content)


def _read(path: Path) -> dict[str, Any]:
    return read_json_object(path, ConfigError, AGAIN)
