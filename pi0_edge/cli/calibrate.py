"""`pi0-edge calibrate`: what enters every linear of a policy while it answers real observations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pi0_edge.cli.options import CheckpointOption, JsonOption, RobotOption, SizesOption, ThreadsOption, TokenizerOption
from pi0_edge.cli.output import Output

if TYPE_CHECKING:
    from pi0_edge.policy import Policy
    from pi0_edge.ptq.calibration import Calibration, LayerStatistics
    from pi0_edge.ptq.frames import ObservationSource

SHOWN_LAYERS = 20


def calibrate(
    output: Annotated[Path, typer.Option(help="Write the calibration there (safetensors).")],
    checkpoint: CheckpointOption = None,
    dataset: Annotated[
        Path | None, typer.Option(help="LeRobotDataset, recording of `serve --record`, or .npz; else the simulation.")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Observations, from half of the episodes.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of episodes and frames, and of the noise.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted calibration.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also plot the outliers there (.svg or .png).")] = None,
    robot: RobotOption = None,
    tokenizer: TokenizerOption = None,
    sizes: SizesOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Collect activation statistics over all Euler steps.

    The other half of the episodes stays untouched, for the gate.
    """
    from pi0_edge.cli.loading import load_policy
    from pi0_edge.ptq.calibration import calibrate as run
    from pi0_edge.ptq.frames import split_frames

    interrupted = output.with_name(f"{output.name}.interrupted")
    _check_paths(output, plot, interrupted, resume)
    speak = Output(as_json)
    policy = load_policy(checkpoint, "reference", None, robot, tokenizer, sizes, threads)
    source = _source(speak, policy, dataset, frames)
    chosen = split_frames(source, frames, 0, seed).calibration
    with speak.progress() as progress:
        task = progress.add_task("checking the frames", total=len(chosen))

        def advance(done: int) -> None:
            progress.update(task, completed=done, description="calibrating")

        try:
            calibration = run(policy, chosen, seed, interrupted, advance)
        except KeyboardInterrupt:
            speak.say(f"what was done is kept in {interrupted}; the same command with --resume goes on")
            raise
    calibration.save(output)
    if plot is not None:
        from pi0_edge.ptq.outlier_plot import plot_outliers

        plot_outliers(calibration, plot)
    _show(speak, calibration, policy, output)
    speak.finish(_result(calibration, output))


def _check_paths(output: Path, plot: Path | None, interrupted: Path, resume: bool) -> None:
    from pi0_edge.errors import ConfigError

    for option, path in (("--output", output), ("--plot", plot)):
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{option} {path}: the folder {path.parent} does not exist; create it")
    if plot is not None and plot.suffix not in (".svg", ".png"):
        raise ConfigError(f"--plot {plot}: expected a name that ends in .svg or .png")
    if interrupted.exists() and not resume:
        raise ConfigError(f"{interrupted} holds an interrupted calibration; go on with --resume, or delete it")
    if resume and not interrupted.exists():
        raise ConfigError(f"there is no {interrupted} to resume; leave --resume out to start")


def _source(speak: Output, policy: Policy, dataset: Path | None, frames: int) -> ObservationSource:
    from pi0_edge.ptq.frames import open_source

    robot = policy.processor.robot
    if dataset is not None:
        return open_source(dataset, robot)
    from pi0_edge.ptq.simulated_source import SimulatedObservations
    from pi0_edge.sim.record import TASK

    with speak.progress() as progress:
        task = progress.add_task("simulating", total=frames)
        prompt = robot.default_prompt or TASK
        return SimulatedObservations(policy, prompt, frames, lambda done: progress.update(task, completed=done))


def _show(speak: Output, calibration: Calibration, policy: Policy, output: Path) -> None:
    worst = sorted(calibration.layers.items(), key=lambda item: -item[1].outlier_ratio)[:SHOWN_LAYERS]
    columns = ("layer", "amax", "99.9 %", "outlier ratio", "Euler steps")
    rows = [(name, layer.amax, layer.percentile, layer.outlier_ratio, _steps(layer)) for name, layer in worst]
    speak.table(f"the {len(rows)} of {len(calibration.layers)} linears with the largest outliers", columns, rows)
    source = calibration.source
    speak.say("outlier ratio: amax over the median of the channels' own; Euler steps: smallest and largest amax of one")
    speak.say(f"{source.frames} frames of {source.name}, SHA-256 {source.sha256}")
    robot = policy.processor.robot
    unseen = [camera for camera in robot.cameras if camera not in source.cameras]
    if unseen:
        speak.say(f"not in them: {', '.join(unseen)} of {robot.name}; calibrate again before they are connected")
    speak.say(f"calibration: {output}")


def _steps(layer: LayerStatistics) -> str:
    if layer.step_amax is None:
        return "-"
    return f"{layer.step_amax.min().item():.4g} to {layer.step_amax.max().item():.4g}"


def _result(calibration: Calibration, output: Path) -> dict[str, object]:
    layers = {
        name: {
            "tokens": layer.tokens,
            "amax": layer.amax,
            "percentile": layer.percentile,
            "outlier_ratio": layer.outlier_ratio,
            "step_amax": None if layer.step_amax is None else layer.step_amax.tolist(),
        }
        for name, layer in calibration.layers.items()
    }
    return {"calibration": output, "source": calibration.source.to_dict(), "layers": layers}
