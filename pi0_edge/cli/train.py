"""`pi0-edge train`: the command of `pi0_edge.training.run.train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pi0_edge.cli.options import JsonOption, ThreadsOption
from pi0_edge.cli.output import Output


def train(
    dataset: Annotated[Path, typer.Option(help="LeRobotDataset folder, see `pi0-edge record`.")],
    output: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run there goes on.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of the whole network.")] = 4800,
    vision_steps: Annotated[int, typer.Option(min=1, help="Steps of the vision tower alone, before.")] = 800,
    batch: Annotated[int, typer.Option(min=1, help="Observations per step.")] = 64,
    draws: Annotated[int, typer.Option(min=1, help="Noise draws per observation.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="Peak of the cosine schedule.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Fixes initial weights, batches and noise.")] = 0,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between two saves.")] = 500,
    preset: Annotated[str, typer.Option(help="Sizes of the network.")] = "pi0-cube",
    robot: Annotated[str, typer.Option(help="Robot layout by name or .yaml.")] = "aloha_sim",
    camera: Annotated[str, typer.Option(help="The camera that the policy gets images of.")] = "top",
    start: Annotated[Path | None, typer.Option(help="Checkpoint to train further, instead of random weights.")] = None,
    max_delay: Annotated[int, typer.Option(min=0, help="Training-time RTC: longest frozen prefix, actions.")] = 0,
    head: Annotated[str | None, typer.Option(help="What makes actions: flow, rt2, octo, tinyvla or mse.")] = None,
    horizon: Annotated[int | None, typer.Option(min=1, help="Actions of a chunk; the head's own if not given.")] = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a small π0 by flow matching, or another action head on the same network.

    The same command goes on after an interruption.
    """
    from pi0_edge.cli.loading import use_threads
    from pi0_edge.training.run import train as run

    use_threads(threads)
    out = Output(as_json)
    with out.progress() as on_progress:
        result = run(
            dataset,
            output,
            steps=steps,
            vision_steps=vision_steps,
            batch=batch,
            draws=draws,
            learning_rate=learning_rate,
            seed=seed,
            save_every=save_every,
            preset=preset,
            robot=robot,
            camera=camera,
            start=start,
            max_delay=max_delay,
            head=head,
            horizon=horizon,
            on_progress=on_progress,
        )
    out.print(f"loss {result.loss:.4f} after {result.steps} steps ({result.seconds / 60:.1f} minutes of steps)")
    counts = ", ".join(f"{part} {count:,}" for part, count in result.parameters.items())
    out.print(f"head {result.head}; learned parameters: {counts}")
    out.print(f"checkpoint: {result.checkpoint}   loss plot: {result.plot}")
    out.finish(vars(result))
