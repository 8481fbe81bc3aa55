"""`pi0-edge train`: the command of `pi0_edge.training.run.train` and, with --tune, of `fine_tuning.fine_tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pi0_edge.cli.options import JsonOption, ThreadsOption, TokenizerOption
from pi0_edge.cli.output import Output
from pi0_edge.errors import ConfigError


def train(
    dataset: Annotated[list[Path], typer.Option(help="LeRobotDataset folder, see `pi0-edge record`; one per robot.")],
    output: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run there goes on.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps; else 4800, with --tune 1000.")] = None,
    vision_steps: Annotated[int, typer.Option(min=1, help="Steps of the vision tower alone, before.")] = 800,
    batch: Annotated[int | None, typer.Option(min=1, help="Observations per step; else 64, with --tune 8.")] = None,
    draws: Annotated[int, typer.Option(min=1, help="Noise draws per observation.")] = 1,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak of the cosine schedule; else 1e-3, with --tune 2.5e-5.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes initial weights, batches and noise.")] = 0,
    save_every: Annotated[int | None, typer.Option(min=1, help="Steps between saves; else 500, --tune 200.")] = None,
    preset: Annotated[str, typer.Option(help="Sizes of the network.")] = "pi0-cube",
    robot: Annotated[
        list[str] | None, typer.Option(help="Robot layout of each dataset by name or .yaml; else aloha_sim.")
    ] = None,
    camera: Annotated[list[str] | None, typer.Option(help="Camera of each dataset that is used; else top.")] = None,
    start: Annotated[Path | None, typer.Option(help="Checkpoint to train further, instead of random weights.")] = None,
    max_delay: Annotated[
        int | None, typer.Option(min=0, help="Training-time RTC: longest frozen prefix, actions; else 0.")
    ] = None,
    head: Annotated[str | None, typer.Option(help="What makes actions: flow, rt2, octo, tinyvla or mse.")] = None,
    horizon: Annotated[int | None, typer.Option(min=1, help="Actions of a chunk; the head's own if not given.")] = None,
    times: Annotated[str, typer.Option(help="Noise times of flow: beta, uniform or logit-normal.")] = "beta",
    accumulate: Annotated[int | None, typer.Option(min=1, help="Parts that a batch is computed in.")] = None,
    tune: Annotated[
        str | None, typer.Option(help="Fine-tune --start, of any size and layout: full, expert or lora.")
    ] = None,
    lora: Annotated[str | None, typer.Option(help="With --tune lora: ranks and layers as openpi or lerobot.")] = None,
    weights: Annotated[str | None, typer.Option(help="With --tune: bf16 or fp32; else bf16 if it is large.")] = None,
    recompute: Annotated[bool, typer.Option(help="With --tune: recompute activations to save memory.")] = True,
    held_out: Annotated[int, typer.Option(min=0, help="With --tune: last episodes, for validation alone.")] = 0,
    validate_every: Annotated[int, typer.Option(min=1, help="With --tune: steps between two validations.")] = 200,
    prefix_memory: Annotated[float, typer.Option(min=0, help="With --tune: GB of frozen prefixes in memory.")] = 2.0,
    prefix_disk: Annotated[float, typer.Option(min=0, help="With --tune: GB of frozen prefixes in files.")] = 0.0,
    tokenizer: TokenizerOption = None,
    norm_stats: Annotated[Path | None, typer.Option(help="With --tune: statistics in openpi's format.")] = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a small π0 by flow matching, or another action head on the same network; or fine-tune a checkpoint.

    With --tune, --start may be a checkpoint of any size; it is trained in full, only its expert, or LoRA factors beside
    its weights. The same command goes on after an interruption.
    """
    from pi0_edge.cli.loading import use_threads

    use_threads(threads)
    out = Output(as_json)
    given = {"steps": steps, "batch": batch, "learning_rate": learning_rate, "save_every": save_every}
    given |= {"max_delay": max_delay}
    common: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    common |= {"draws": draws, "seed": seed, "times": times, "accumulate": accumulate}
    with out.progress() as on_progress:
        if tune is not None:
            from pi0_edge.training.fine_tuning import FineTuning, fine_tune

            if start is None:
                raise ConfigError("--tune fine-tunes a checkpoint; give it with --start")
            how = FineTuning(
                tune=tune,
                lora=lora,
                weights=weights,
                recompute=recompute,
                held_out=held_out,
                validate_every=validate_every,
                prefix_memory=prefix_memory,
                prefix_disk=prefix_disk,
                **common,
            )
            result = fine_tune(
                dataset,
                output,
                start,
                how,
                robots=robot or (),
                tokenizer=tokenizer,
                norm_stats=norm_stats,
                on_progress=on_progress,
            )
        else:
            from pi0_edge.training.run import train as run

            if lora is not None or weights is not None or held_out or tokenizer or norm_stats:
                raise ConfigError(
                    "--lora, --weights, --held-out, --tokenizer and --norm-stats belong to --tune; add it"
                )
            result = run(
                dataset,
                output,
                vision_steps=vision_steps,
                preset=preset,
                robot=robot or "aloha_sim",
                camera=camera[0] if camera and len(camera) == 1 else camera or "top",
                start=start,
                head=head,
                horizon=horizon,
                on_progress=on_progress,
                **common,
            )
    out.print(f"loss {result.loss:.4f} after {result.steps} steps ({result.seconds / 60:.1f} minutes of steps)")
    counts = ", ".join(f"{part} {count:,}" for part, count in result.parameters.items())
    out.print(f"head {result.head}; learned parameters: {counts}")
    out.print(f"checkpoint: {result.checkpoint}   loss plot: {result.plot}")
    out.finish(vars(result))
