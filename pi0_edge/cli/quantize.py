"""`pi0-edge quantize`: what a scheme does to the actions, before anything is deployed.

Thin for now: it quantizes in memory and reports. The deployable bundle with packed weights is not there yet.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pi0_edge.cli.options import CheckpointOption, JsonOption, RobotOption, SizesOption, ThreadsOption, TokenizerOption
from pi0_edge.cli.output import Output

if TYPE_CHECKING:
    from pi0_edge.evaluation.action_error import ActionError
    from pi0_edge.policy import Policy
    from pi0_edge.processing import Observation

SEED = 0


def quantize(
    checkpoint: CheckpointOption = None,
    scheme: Annotated[str, typer.Option(help="How which layers are quantized.")] = "int8-w8a8",
    dataset: Annotated[Path | None, typer.Option(help="Recordings to compare on; else the simulation.")] = None,
    observations: Annotated[int, typer.Option(min=1, help="How many observations to compare on.")] = 40,
    robot: RobotOption = None,
    tokenizer: TokenizerOption = None,
    sizes: SizesOption = None,
    output: Annotated[Path | None, typer.Option(help="Write the report there as JSON.")] = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Quantize and compare the actions with fp32.

    Same observations, same noise; in memory only, the deployable bundle is not there yet.
    """
    from pi0_edge.cli.loading import load_policy, load_scheme
    from pi0_edge.evaluation.action_error import answer, compare_answers

    load_scheme(scheme)
    speak = Output(as_json)
    reference = load_policy(checkpoint, "reference", None, robot, tokenizer, sizes, threads)
    seen = _observations(reference, dataset, observations)
    truth = answer(reference, seen)
    names = reference.processor.robot.action_names
    del reference  # a full-size network must leave memory before the next one enters it
    quantized = load_policy(checkpoint, "cpu", scheme, robot, tokenizer, sizes, threads)
    error = compare_answers(truth, answer(quantized, seen))
    labels = list(names) or [f"action {i}" for i in range(len(error.max_error))]
    report = {"scheme": scheme, "compared_on": str(dataset or "simulation"), "joints": labels, **vars(error)}
    _show(speak, scheme, error, labels)
    if output is not None:
        output.write_text(json.dumps(report, indent=2) + "\n")
        speak.say(f"report: {output}")
    speak.say(f"measured only: there is no deployable bundle yet; run it with --scheme {scheme}")
    speak.finish(report)


def _observations(policy: Policy, dataset: Path | None, count: int) -> list[Observation]:
    from pi0_edge.quantization.observations import open_source, split_frames
    from pi0_edge.quantization.simulated_observations import SimulatedObservations
    from pi0_edge.sim.record import TASK

    robot = policy.processor.robot
    if dataset is not None:
        source = open_source(dataset, robot)
    else:
        source = SimulatedObservations(policy, robot.default_prompt or TASK, count)
    return list(split_frames(source, 0, count, SEED).held_out)


def _show(speak: Output, scheme: str, error: ActionError, labels: list[str]) -> None:
    rows = list(zip(labels, error.max_error, error.rms_error, strict=True))
    speak.table(f"{scheme} against fp32 (radians; grippers 0 to 1)", ("joint", "largest error", "rms error"), rows)
    speak.say(
        f"{error.chunks} chunks: cosine {error.cosine_mean:.6f} on average, {error.cosine_worst:.6f} at worst "
        "(normalized actions)"
    )
