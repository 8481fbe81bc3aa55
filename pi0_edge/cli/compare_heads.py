"""`pi0-edge compare-heads`: the command of `pi0_edge.comparison.run.compare_heads`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output


def compare_heads(
    output: Annotated[Path, typer.Option(help="Folder of the comparison; an interrupted one there goes on.")],
    short: Annotated[bool, typer.Option("--short", help="Everything once on a tiny network, in two minutes.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that train and play, one thread each.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Train, play and time five action heads on the same features, and report.

    Every head gets the same processor time, so that other work on the machine only makes it longer. Latency and the
    firmware's clock come last and need an idle machine: they are timed with nothing of this command beside them.
    """
    from pi0_edge.comparison.plan import FULL, SHORT
    from pi0_edge.comparison.run import compare_heads as run
    from pi0_edge.comparison.tables import plan_lines

    out = Output(as_json)
    plan = SHORT if short else FULL
    for line in plan_lines(plan, workers):
        out.print(line)
    with out.progress() as on_progress:
        found = run(output, plan, workers=workers, on_progress=on_progress)
    columns = ("task", "head, chunk", "decoding", "episodes", "successes")
    out.table(
        "Success",
        columns,
        [[row[name] for name in ("task", "variant", "decoding", "episodes", "successes")] for row in found["rows"]],
    )
    out.print(f"report: {output / 'report.html'}   {output / 'report.md'}")
    out.finish({"report": output / "report.html", "markdown": output / "report.md", **found})
