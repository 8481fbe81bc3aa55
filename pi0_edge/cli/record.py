"""`pi0-edge record`: the command of `pi0_edge.sim.record.record`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output


def record(
    output: Annotated[Path, typer.Option(help="New or empty folder for the dataset.")],
    episodes: Annotated[int, typer.Option(min=1, help="Successful episodes to keep.")] = 600,
    task: Annotated[str, typer.Option(help="transfer-cube, two-ways or two-ways-one-arm.")] = "transfer-cube",
    first_seed: Annotated[int, typer.Option(help="First scene; those below 1000 are for tests.")] = 100_000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that simulate and render.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Record demonstrations as a LeRobotDataset."""
    from pi0_edge.sim.record import record as run

    out = Output(as_json)
    with out.progress() as on_progress:
        report = run(output, episodes, task=task, first_seed=first_seed, workers=workers, on_progress=on_progress)
    out.print(f"{report.kept} episodes of {report.tried} tried are in {output}")
    out.finish(
        {"dataset": output, "task": task, "episodes": report.kept, "tried": report.tried, "first_seed": first_seed}
    )
