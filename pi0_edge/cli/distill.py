"""`pi0-edge distill`: the command of `pi0_edge.distillation.run.distill`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pi0_edge.cli.options import CheckpointOption, JsonOption, ThreadsOption
from pi0_edge.cli.output import Output


def distill(
    dataset: Annotated[Path, typer.Option(help="LeRobotDataset folder with observations of the task.")],
    output: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run there goes on.")],
    checkpoint: CheckpointOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Euler steps of the student.")] = 1,
    teacher_steps: Annotated[int | None, typer.Option(min=1, help="Of the teacher; else as it was made for.")] = None,
    part: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Teacher's steps that a step covers, once for each step; else equal parts."),
    ] = None,
    updates: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 2000,
    batch: Annotated[int, typer.Option(min=1, help="Observations per update.")] = 32,
    draws: Annotated[int, typer.Option(min=1, help="Noise draws per observation.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="Peak of the cosine schedule.")] = 1.5e-4,
    floor: Annotated[float, typer.Option(help="Error of a chunk up to which errors count by their square.")] = 0.01,
    opening_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the observations that are the first of an episode.")
    ] = 0.25,
    start: Annotated[Path | None, typer.Option(help="Student of the same teacher and steps to begin from.")] = None,
    seed: Annotated[int, typer.Option(help="Fixes batches and noise.")] = 0,
    save_every: Annotated[int, typer.Option(min=1, help="Updates between two saves.")] = 200,
    camera: Annotated[str, typer.Option(help="The camera that the policy gets images of.")] = "top",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Teach a copy of a policy to need one or two Euler steps.

    The same command goes on after an interruption. `pi0-edge quantize --teacher` judges the result.
    """
    from pi0_edge.cli.loading import checkpoint_or_shipped, use_threads
    from pi0_edge.distillation.run import distill as run

    use_threads(threads)
    out = Output(as_json)
    with out.progress() as on_progress:
        result = run(
            checkpoint_or_shipped(checkpoint),
            dataset,
            output,
            steps=steps,
            teacher_steps=teacher_steps,
            parts=part or (),
            updates=updates,
            batch=batch,
            draws=draws,
            learning_rate=learning_rate,
            floor=floor,
            opening_share=opening_share,
            start=start,
            seed=seed,
            save_every=save_every,
            camera=camera,
            on_progress=on_progress,
        )
    out.print(f"loss {result.loss:.4f} after {result.updates} updates ({result.seconds / 60:.1f} minutes of updates)")
    out.print(f"checkpoint: {result.checkpoint}   loss plot: {result.plot}")
    out.finish(vars(result))
