"""`pi0-edge record`: demonstrations of the cube transfer by the scripted expert."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output

if TYPE_CHECKING:
    from pi0_edge.sim.record import RecordingReport


def record(
    output: Annotated[Path, typer.Option(help="New or empty folder for the dataset.")],
    episodes: Annotated[int, typer.Option(min=1, help="Successful episodes to keep.")] = 600,
    first_seed: Annotated[int, typer.Option(help="First cube pose; those below 1000 are for tests.")] = 100_000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that simulate and render.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Record demonstrations as a LeRobotDataset."""
    from pi0_edge.sim.record import record_demonstrations

    speak = Output(as_json)
    with speak.progress() as progress:
        task = progress.add_task("recording", total=episodes)

        def advance(report: RecordingReport) -> None:
            progress.update(task, completed=report.kept, description=f"recording ({report.tried} tried)")

        report = record_demonstrations(output, episodes, first_seed, workers, advance)
    speak.say(f"{report.kept} episodes of {report.tried} tried are in {output}")
    speak.finish({"dataset": output, "episodes": report.kept, "tried": report.tried, "first_seed": first_seed})
