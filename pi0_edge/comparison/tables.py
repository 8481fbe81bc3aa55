"""The tables of the report, as text: the same in HTML and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pi0_edge.comparison.clock import is_valid, late_parts, slowest_allowed_ms
from pi0_edge.comparison.figures import Row
from pi0_edge.comparison.plan import Plan, expected_s
from pi0_edge.latency.percentiles import fewest_samples


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: Its heading.
        text: How it was measured.
        columns: Their names.
        rows: As many cells in each as there are columns.
    """

    title: str
    text: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def success_table(task: str, rows: Sequence[Row]) -> Table:
    """Success, time and motion in one task."""
    return Table(
        f"Success: {task}",
        "The same scenes for all heads, never seen in training. The interval is Wilson's of all episodes of all seeds "
        "together; beside it the rate of each seed of training. Path error: root mean square distance per arm joint to "
        "the nearest point of the expert's nearest way, of what was executed. First action and executed part: distance "
        "to the expert's setpoints from the expert's own observations. Jerk: root mean square third difference of the "
        "executed setpoints.",
        (
            "head, chunk, decoding",
            "success",
            "95 % interval",
            "each seed",
            "time to success",
            "path error, rad",
            "first action, rad",
            "executed part, rad",
            "jerk, rad/s³",
        ),
        tuple(
            (
                row.name,
                f"{row.successes} of {row.episodes} ({percent(row.success)})",
                f"{percent(row.interval[0])} to {percent(row.interval[1])}",
                ", ".join(percent(rate) for rate in row.by_seed),
                "–" if row.seconds is None else f"{row.seconds:.2f} s",
                f"{row.path_error:.4f}",
                f"{row.first:.4f}",
                f"{row.executed:.4f}",
                f"{row.jerk:.3g}",
            )
            for row in rows
        ),
    )


def ways_table(rows: Sequence[Row]) -> Table:
    """How each head keeps two ways apart."""
    found = [(row, row.ways) for row in rows if row.ways is not None]
    return Table(
        "Two equally good ways",
        "Paths of one second from the start of a scene, each with noise of its own, replanned as in the episodes. Half "
        "of the demonstrations go either way. Read the columns together: noise does not touch the post either, and "
        "shows in jerk and distance. A path under which the physics broke down has taken neither way. The floor is the "
        "distance of as many paths of the expert itself.",
        (
            "head, chunk, decoding",
            "paths",
            "touch the post",
            "95 % interval",
            "near way",
            "sliced Wasserstein, rad",
            "floor, rad",
            "to the nearest way, rad",
            "jerk / expert's",
        ),
        tuple(
            (
                row.name,
                str(ways.paths),
                percent(ways.collision),
                f"{percent(ways.collision_interval[0])} to {percent(ways.collision_interval[1])}",
                "–" if ways.near is None else percent(ways.near),
                f"{ways.distance:.4f}",
                f"{ways.floor:.4f}",
                f"{ways.mode_error:.4f}",
                f"{ways.jerk / ways.expert_jerk:.3g}",
            )
            for row, ways in found
        ),
    )


def cost_table(latency: Sequence[dict[str, Any]]) -> Table:
    """Parameters, calls and latency."""
    return Table(
        "What a chunk costs",
        "One observation, one thread, fp32, nothing of this command beside it. Prefix: vision tower and prefix, the "
        "same network for all. Head: state token, expert and what stands behind it. Calls wait for each other. p99 by "
        f"the early-stopping rule, which needs {fewest_samples(0.99)} samples. Actions a second: executed actions of a "
        "chunk by the median latency of one chunk.",
        (
            "head, chunk, decoding",
            "parameters of the head",
            "with expert and backbone",
            "calls",
            "prefix p50, ms",
            "head p50, ms",
            "chunk p50, ms",
            "chunk p99, ms",
            "samples",
            "actions a second",
        ),
        tuple(
            (
                f"{one['variant']}, {one['decoding']}",
                f"{one['parameters']['head']:,}",
                f"{one['parameters']['total']:,}",
                str(one["calls"]["total"]),
                f"{one['prefix_ms']['p50']:.2f}",
                f"{one['head_ms']['p50']:.2f}",
                f"{one['chunk_ms']['p50']:.2f}",
                "not enough" if one["chunk_ms"]["p99"] is None else f"{one['chunk_ms']['p99']:.2f}",
                str(one["chunk_ms"]["n"]),
                f"{one['actions_per_second']:,.0f}",
            )
            for one in latency
        ),
    )


def clock_table(plan: Plan, clocks: Sequence[dict[str, Any]]) -> Table:
    """Whether 50 Hz are held."""
    variants = {variant.name: variant for variant in plan.variants}
    return Table(
        "50 setpoints a second through the firmware",
        "Each head with its published steps plays the cube transfer in real time: policy server, bridge, serial line, "
        "and the firmware on the emulated board, whose timer interrupt takes one setpoint every 20 ms. Starved: ticks "
        "behind the first executed setpoint for which there was none. The limit is the longest latency of a chunk with "
        "which none is missed (docs/time.md); where it is not above 0, chunks of so few actions are over before they "
        "have crossed the line.",
        (
            "head, chunk",
            "replans every",
            "limit of a chunk",
            "a chunk took (p50)",
            "chunks taken",
            "starved ticks",
            "50 Hz held",
            "faults",
        ),
        tuple(_clock_row(variants[one["variant"]], one) for one in clocks),
    )


def _clock_row(variant: Any, one: dict[str, Any]) -> tuple[str, ...]:
    allowed = slowest_allowed_ms(variant)
    held = not one["starved"] and not one["never_executed"] and bool(one["ticks"])
    starved = f"{one['starved']} of {one['ticks']}" if one["ticks"] else "no setpoint was ever executed"
    return (
        variant.name,
        f"{variant.executed} ticks",
        f"{allowed:.0f} ms" if allowed > 0 else "none is short enough",
        "–" if one["chunk_ms"] is None else f"{one['chunk_ms']:.1f} ms",
        f"{one['accepted']} of {one['chunks']}",
        starved,
        ("yes" if held else "no")
        if is_valid(one)
        else f"void: bridge or board did not keep its time ({late_parts(one)})",
        ", ".join(one["faults"]) or "none",
    )


def training_table(cells: Sequence[dict[str, Any]]) -> Table:
    """What each head made of its time."""
    named = dict.fromkeys((cell["task"], cell["variant"]) for cell in cells)
    rows = []
    for task, variant in named:
        own = [cell for cell in cells if (cell["task"], cell["variant"]) == (task, variant)]
        rows.append(
            (
                task,
                variant,
                f"{own[0]['rate']:g}",
                ", ".join(f"{cell['steps']:,}" for cell in own),
                ", ".join(f"{cell['cpu_seconds']:.0f}" for cell in own),
                ", ".join(f"{cell['held_out']:.4f}" for cell in own),
            )
        )
    return Table(
        "Training",
        "Every cell gets the same processor time of one thread, on the same frozen features; a head whose step is "
        "cheaper takes more steps. The learning rate is the best of those tried for a shorter time (above), by the "
        "loss on held-out episodes, which is another quantity in every head.",
        ("task", "head, chunk", "learning rate", "steps of each seed", "processor s", "held-out loss"),
        tuple(rows),
    )


def plan_lines(plan: Plan, workers: int) -> list[str]:
    """What will be computed and how long it takes, one line each."""
    seconds = expected_s(plan)
    alone = seconds["latency"] + seconds["clock"]
    shared = sum(seconds.values()) - alone
    cells = len(list(plan.cells()))
    minutes = (shared / max(1, workers) + alone) / 60
    lines = [
        f"{len(plan.variants)} heads and chunks, {len(plan.tasks)} tasks, {len(plan.seeds)} seeds: {cells} cells; "
        f"about {minutes:.0f} minutes on {max(1, workers)} idle core(s)"
    ]
    return lines + [f"  {name}: {value / 60:.1f} processor minutes" for name, value in seconds.items() if value]


def percent(share: float) -> str:
    """Such as `97 %`."""
    return f"{100 * share:.0f} %"
