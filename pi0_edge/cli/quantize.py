"""`pi0-edge quantize`: the command of `pi0_edge.ptq.pipeline.quantize`, with report, bundle and tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    from pi0_edge.ptq.pipeline import QuantizedPolicy

SHOWN_GROUPS = 15


def quantize(
    checkpoint: CheckpointOption = None,
    scheme: Annotated[str, typer.Option(help="How which layers are quantized: a name, or a .yaml.")] = "orin",
    output: Annotated[Path | None, typer.Option(help="Write the bundle there.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the gate report there (.html).")] = None,
    dataset: FramesOption = None,
    calibration: Annotated[Path | None, typer.Option(help="From `pi0-edge calibrate`; else made where needed.")] = None,
    calibration_frames: Annotated[int, typer.Option(min=1, help="Observations to calibrate on.")] = 64,
    held_out: Annotated[int, typer.Option(min=1, help="Other observations, that the gate judges on.")] = 100,
    draws: Annotated[int, typer.Option(min=1, help="Noise draws per held-out observation.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Fixes the choice of episodes and frames.")] = 0,
    skip_unfit: SkipUnfitOption = 0,
    episodes: Annotated[int, typer.Option(min=0, help="Simulated episodes of either policy, same seeds.")] = 0,
    executed: Annotated[int, typer.Option(min=1, help="Actions executed before the next chunk.")] = 25,
    cosine_mean: Annotated[float, typer.Option(help="Least mean cosine that passes.")] = 0.999,
    cosine_worst: Annotated[float, typer.Option(help="Least cosine of any chunk that passes.")] = 0.995,
    success_loss: Annotated[float, typer.Option(help="Largest loss of success the interval may contain.")] = 0.10,
    scan: Annotated[bool, typer.Option("--scan", help="Rank the layers by their damage to the actions.")] = False,
    search: Annotated[
        Path | None, typer.Option(help="Search the cheapest mix that passes, write it there (.yaml), and use it.")
    ] = None,
    level: Annotated[
        list[str] | None, typer.Option(help="Scheme the search may take layers from, besides --scheme; repeat it.")
    ] = None,
    scan_by: Annotated[
        Literal["part", "block", "linear"], typer.Option(help="What is quantized together in scan and search.")
    ] = "block",
    scan_frames: Annotated[int, typer.Option(min=1, help="Observations of scan and search.")] = 16,
    teacher: Annotated[Path | None, typer.Option(help="Checkpoint that this one was distilled from.")] = None,
    teacher_observations: Annotated[int, typer.Option(min=1, help="Held-out ones to compare it on.")] = 16,
    teacher_draws: Annotated[int, typer.Option(min=1, help="Noise draws per observation for that.")] = 64,
    private_key: Annotated[Path | None, typer.Option(help="Sign the bundle with it (PEM).")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a bundle that is there already.")] = False,
    training_profile: Annotated[
        Path | None, typer.Option(help="Profile of the training data (.json), if calibration and frames have none.")
    ] = None,
    robot: RobotOption = None,
    tokenizer: TokenizerOption = None,
    norm_stats: NormStatsOption = None,
    sizes: SizesOption = None,
    truncate_prompts: TruncatePromptsOption = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Quantize, judge against fp32, and bundle.

    Exit code 1 where the gate fails.
    """
    from pi0_edge.cli.loading import checkpoint_or_shipped, read_sizes, use_threads
    from pi0_edge.output_paths import check_output_path
    from pi0_edge.ptq import pipeline
    from pi0_edge.ptq.teacher import Teacher
    from pi0_edge.ptq.verdict import Thresholds
    from pi0_edge.quant.scheme_files import load_scheme

    check_output_path("--report", report, (".html",))
    check_output_path("--search", search, (".yaml",))
    if output is not None:
        pipeline.check_bundle(output, load_scheme(scheme), replace)
    use_threads(threads)
    options = pipeline.ScanOptions(scan_by, scan_frames, level or pipeline.SEARCH_LEVELS)
    out = Output(as_json)
    with out.progress() as on_progress:
        quantized = pipeline.quantize(
            checkpoint_or_shipped(checkpoint),
            scheme,
            dataset,
            robot=robot,
            tokenizer=tokenizer,
            sizes=read_sizes(sizes, truncate_prompts),
            norm_stats=norm_stats,
            calibration=calibration,
            calibration_frames=calibration_frames,
            held_out=held_out,
            draws=draws,
            seed=seed,
            episodes=episodes,
            thresholds=Thresholds(cosine_mean, cosine_worst, executed, success_loss=success_loss),
            scan=options if scan or search else None,
            search=search,
            skip_unfit=skip_unfit,
            training_profile=training_profile,
            teacher=None if teacher is None else Teacher(teacher, teacher_observations, teacher_draws),
            on_progress=on_progress,
        )
    if report is not None:
        quantized.write_report(report)
    if output is not None:
        quantized.write_bundle(output, private_key, replace)
    if quantized.mix is not None:
        out.print(f"{pipeline.describe_mix(quantized.mix)}; written to {search}")
    _show(out, quantized)
    _conclude(out, quantized, output, report)
    out.finish(
        {
            "scheme": quantized.scheme.to_dict(),
            "facts": dict(quantized.facts),
            "gate": quantized.gate.to_dict(),
            "ranking": quantized.ranking,
            "left_out": list(quantized.left_out),
            "bundle": output,
            "report": report,
        }
    )
    if not quantized.passed:
        raise typer.Exit(1)


def _show(out: Output, quantized: QuantizedPolicy) -> None:
    """Tables of thresholds and joints, and of the most sensitive layers where they were ranked."""
    ranking, gate = quantized.ranking, quantized.gate
    if ranking:
        rows = [(choice.group, choice.level, choice.damage) for choice in ranking[:SHOWN_GROUPS]]
        title = f"the {len(rows)} of {len(ranking)} choices that damage the actions most"
        out.table(title, ("layers", "as in", "mean squared relative error"), rows)
    rows = [(f.name, f.found, f.asked, "met" if f.passed else "MISSED", f.where) for f in gate.verdict.findings]
    out.table(f"{quantized.scheme.name} against fp32", ("", "found", "asked", "", "where"), rows)
    joints = [(joint.name, joint.p50, joint.p99, joint.max) for joint in gate.joints]
    out.table("error per joint, in the robot's own units", ("joint", "median", "99 %", "largest"), joints)
    if gate.success is not None:
        low, high = gate.success.interval
        beside = "fp32" if gate.distribution is None else "the teacher"
        out.print(
            f"closed loop, {gate.success.seeds} seeds: success differs from {beside} by "
            f"{gate.success.difference:+.1%}, 95 % interval {low:+.1%} to {high:+.1%}"
        )


def _conclude(out: Output, quantized: QuantizedPolicy, bundle: Path | None, report: Path | None) -> None:
    """The verdict in the last lines."""
    for frame in quantized.left_out:
        out.print(f"left out as unfit: {frame}")
    if report is not None:
        out.print(f"report: {report}")
    profile = quantized.training_profile
    why = "none; whoever runs it must accept that by name (--accept-mismatch training-profile)"
    out.print(f"training data, for the mismatch guard: {why if profile is None else profile.summary}")
    if bundle is not None:
        out.print(f"bundle: {bundle}")
    name = quantized.scheme.name
    if quantized.passed:
        out.print(f"PASS: {name} may be served")
        return
    for reason in quantized.verdict.reasons:
        out.print(f"- {reason}")
    refused = "" if bundle is None else "; the bundle is refused unless --accept-failed-gate is given"
    out.print(f"FAIL: {name} must not move a robot{refused}")
