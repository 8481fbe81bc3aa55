"""`pi0-edge calibrate`: the command of `pi0_edge.ptq.calibration.calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pi0_edge.cli.options import (
    CheckpointOption,
    FramesOption,
    JsonOption,
    NormStatsOption,
    RobotOption,
    SizesOption,
    SkipUnfitOption,
    ThreadsOption,
    TokenizerOption,
    TruncatePromptsOption,
)
from pi0_edge.cli.output import Output

if TYPE_CHECKING:
    from pi0_edge.ptq.calibration_file import Calibration, LayerStatistics

SHOWN_LAYERS = 20


def calibrate(
    output: Annotated[Path, typer.Option(help="Write the calibration there (safetensors).")],
    checkpoint: CheckpointOption = None,
    dataset: FramesOption = None,
    frames: Annotated[int, typer.Option(min=1, help="Observations, from half of the episodes.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Fixes the choice of episodes and frames, and the noise.")] = 0,
    skip_unfit: SkipUnfitOption = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted calibration.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also plot the outliers there (.svg or .png).")] = None,
    training_profile: Annotated[
        Path | None,
        typer.Option(help="Also write the profile of the training data there (.json), for the mismatch guard."),
    ] = None,
    robot: RobotOption = None,
    tokenizer: TokenizerOption = None,
    norm_stats: NormStatsOption = None,
    sizes: SizesOption = None,
    truncate_prompts: TruncatePromptsOption = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Collect activation statistics over all Euler steps.

    The other half of the episodes stays untouched, for the gate.
    """
    from pi0_edge.cli.loading import checkpoint_or_shipped, read_sizes, use_threads
    from pi0_edge.output_paths import check_output_path
    from pi0_edge.ptq import calibration

    resume_path = output.with_name(f"{output.name}.interrupted")
    check_output_path("--output", output)
    check_output_path("--plot", plot, (".svg", ".png"))
    check_output_path("--training-profile", training_profile, (".json",))
    _check_resume(resume_path, resume)
    use_threads(threads)
    out = Output(as_json)
    try:
        with out.progress() as on_progress:
            calibrated = calibration.calibrate(
                checkpoint_or_shipped(checkpoint),
                dataset,
                robot=robot,
                tokenizer=tokenizer,
                sizes=read_sizes(sizes, truncate_prompts),
                norm_stats=norm_stats,
                calibration_frames=frames,
                seed=seed,
                resume_path=resume_path,
                resume=resume,
                skip_unfit=skip_unfit,
                require_training_profile=training_profile is not None,
                on_progress=on_progress,
            )
    except KeyboardInterrupt:
        if resume_path.exists():
            out.print(f"the frames that are done are kept in {resume_path}; the same command with --resume goes on")
        raise
    calibrated.save(output)
    if training_profile is not None and calibrated.training_profile is not None:
        calibrated.training_profile.save(training_profile)
    if plot is not None:
        from pi0_edge.ptq.outlier_plot import plot_outliers

        plot_outliers(calibrated, plot)
    _show(out, calibrated)
    if training_profile is not None:
        out.print(f"training profile: {training_profile}")
    out.print(f"calibration: {output}")
    out.finish(_result(calibrated, output))


def _check_resume(resume_path: Path, resume: bool) -> None:
    """As the library does, with the flag of the command."""
    from pi0_edge.errors import ConfigError

    if resume_path.exists() and not resume:
        raise ConfigError(f"{resume_path} holds an interrupted calibration; go on with --resume, or delete it")
    if resume and not resume_path.exists():
        raise ConfigError(f"there is no {resume_path} to resume; leave --resume out to start")


def _show(out: Output, calibration: Calibration) -> None:
    worst = sorted(calibration.layers.items(), key=lambda item: -item[1].outlier_ratio)[:SHOWN_LAYERS]
    columns = ("layer", "amax", "99.9 %", "outlier ratio", "Euler steps")
    rows = [(name, layer.amax, layer.percentile, layer.outlier_ratio, _steps(layer)) for name, layer in worst]
    out.table(f"the {len(rows)} of {len(calibration.layers)} linears with the largest outliers", columns, rows)
    source = calibration.source
    out.print("outlier ratio: amax over the median of the channels' own; Euler steps: smallest and largest amax of one")
    out.print(f"{source.frames} frames of {source.name}, SHA-256 {source.sha256}")
    for frame in source.left_out:
        out.print(f"left out as unfit: {frame}")
    if source.missing_cameras:
        missing = ", ".join(source.missing_cameras)
        out.print(f"not in them: {missing} of the robot; calibrate again before they are connected")
    profile = calibration.training_profile
    if profile is None:
        out.print("no training data were given: the mismatch guard will have nothing to compare a robot with")
        return
    out.print(f"training data, for the mismatch guard: {profile.summary}")
    for rule, why in profile.missing.items():
        out.print(f"the mismatch guard cannot check {rule}: {why}")


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
    profile = calibration.training_profile
    return {
        "calibration": output,
        "source": calibration.source.to_dict(),
        "training_data": None if profile is None else profile.summary,
        "layers": layers,
    }
