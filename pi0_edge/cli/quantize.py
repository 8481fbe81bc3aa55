"""`pi0-edge quantize`: a checkpoint becomes a bundle, and the gate says whether it may move a robot.

    frames ─┬─ calibration half ─► calibrate ─► (scan, search) ─► quantize ─┐
            └─ held-out half ──► fp32 reference ────────────────────────────┴─► gate ─► report, bundle

Reference and candidate are never in memory together. Exit code 1 where the gate fails; the bundle is written all the
same, and refused by whatever should run it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pi0_edge.cli.options import CheckpointOption, JsonOption, RobotOption, SizesOption, ThreadsOption, TokenizerOption
from pi0_edge.cli.output import Output

if TYPE_CHECKING:
    from pi0_edge.quant import Scheme

SEARCH_LEVELS = ["int8-w8a16", "int8-w8a8"]
LEAST_HELD_OUT = 4
"""Fewer held-out observations than this are refused before anything is computed."""


def quantize(
    checkpoint: CheckpointOption = None,
    scheme: Annotated[str, typer.Option(help="How which layers are quantized: a name, or a .yaml.")] = "orin",
    output: Annotated[Path | None, typer.Option(help="Write the bundle there.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the gate report there (.html).")] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="LeRobotDataset, recording of `serve --record`, or .npz; else the simulation.")
    ] = None,
    calibration: Annotated[Path | None, typer.Option(help="From `pi0-edge calibrate`; else made where needed.")] = None,
    calibration_frames: Annotated[int, typer.Option(min=1, help="Observations to calibrate on.")] = 64,
    held_out: Annotated[int, typer.Option(min=1, help="Other observations, that the gate judges on.")] = 100,
    draws: Annotated[int, typer.Option(min=1, help="Noise draws per held-out observation.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of episodes and frames.")] = 0,
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
    private_key: Annotated[Path | None, typer.Option(help="Sign the bundle with it (PEM).")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a bundle that is there already.")] = False,
    robot: RobotOption = None,
    tokenizer: TokenizerOption = None,
    sizes: SizesOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Quantize, judge against fp32, and bundle.

    Exit code 1 where the gate fails.
    """
    from pi0_edge.checkpoints import load_sizes
    from pi0_edge.cli import quantize_results as results
    from pi0_edge.cli import quantize_steps as steps
    from pi0_edge.cli.loading import load_policy, load_scheme
    from pi0_edge.ptq.candidate import quantize_checkpoint
    from pi0_edge.ptq.frame_checks import inspect_frames
    from pi0_edge.ptq.frames import split_frames
    from pi0_edge.ptq.gate import compare
    from pi0_edge.ptq.scan import UNTOUCHED
    from pi0_edge.ptq.verdict import Thresholds
    from pi0_edge.shipped import shipped_checkpoint

    chosen = load_scheme(scheme)
    others = [load_scheme(name) for name in (level or SEARCH_LEVELS)] if search is not None else []
    _check_paths(chosen, output, report, search)
    thresholds = Thresholds(cosine_mean, cosine_worst, executed, success_loss=success_loss)
    speak = Output(as_json)
    reference = load_policy(checkpoint, "reference", None, robot, tokenizer, sizes, threads)
    joints = reference.processor.robot.action_labels
    source = steps.open_frames(speak, reference, dataset, max(calibration_frames, held_out, scan_frames))
    split = split_frames(source, calibration_frames, held_out, seed)
    inspected = inspect_frames(split.held_out, reference.processor, LEAST_HELD_OUT)
    calibrated = steps.calibrated(speak, reference, split, [chosen, *others], calibration, seed)

    ranking = []
    if scan or search is not None:
        seen = list(split_frames(source, scan_frames, 0, seed).calibration)
        layers, choices = steps.scanned(speak, reference, [chosen, *others], seen, scan_by, calibrated)
        ranking = results.ranking_of(choices, UNTOUCHED)
        if search is not None:
            chosen = steps.searched(speak, layers, choices, joints, thresholds, draws, chosen, search)
        del layers

    observations = list(split.held_out)
    truth = steps.traced(speak, "fp32", reference, observations, draws)
    won = steps.played(speak, "fp32", reference, episodes, executed)
    del reference  # a full-size network must leave memory before the next one enters it

    path = shipped_checkpoint() if checkpoint is None else checkpoint
    candidate = quantize_checkpoint(
        path, chosen, calibrated, robot, tokenizer, None if sizes is None else dict(load_sizes(sizes))
    )
    found = steps.traced(speak, chosen.name, candidate.policy, observations, draws)
    success = steps.paired(won, steps.played(speak, chosen.name, candidate.policy, episodes, executed))
    gate = compare(truth, found, joints, thresholds, [str(place) for place in split.held_out.places], success)

    facts = results.facts_of(candidate, path, split.held_out, inspected, draws)
    html = results.page_of(gate, candidate, facts, calibrated, ranking)
    if report is not None:
        report.write_text(html)
    if output is not None:
        results.bundle(output, candidate, gate, html, calibrated, private_key, replace)
    results.show(speak, chosen.name, gate, ranking)
    results.conclude(speak, chosen.name, gate, output, report)
    found_out = {"scheme": chosen.to_dict(), "facts": dict(facts), "gate": gate.to_dict(), "ranking": ranking}
    speak.finish({**found_out, "bundle": output, "report": report})
    if not gate.verdict.passed:
        raise typer.Exit(1)


def _check_paths(scheme: Scheme, output: Path | None, report: Path | None, search: Path | None) -> None:
    """What would fail in the end fails at once."""
    from pi0_edge.errors import ConfigError

    for option, path, suffix in (("--report", report, ".html"), ("--search", search, ".yaml")):
        if path is not None and path.suffix != suffix:
            raise ConfigError(f"{option} {path}: expected a name that ends in {suffix}")
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{option} {path}: the folder {path.parent} does not exist; create it")
    libraries = sorted({rule.library for rule in scheme.rules if rule.library is not None})
    if output is not None and libraries:
        raise ConfigError(
            f"{scheme.name} leaves layers to {', '.join(libraries)}, whose storage a bundle cannot hold; "
            "leave --output out to judge it, or choose another scheme"
        )
