"""`pi0-edge demo`: the whole path on this machine, from image to timer interrupt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pi0_edge.cli.options import AcceptFailedGateOption, JsonOption
from pi0_edge.cli.output import Output, format_number

if TYPE_CHECKING:
    from pi0_edge.demo.summary import DemoSummary


def demo(
    output: Annotated[Path, typer.Option(help="Folder for record, plots and summary.json.")] = Path("runs/demo"),
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to run.")] = 3,
    first_seed: Annotated[int, typer.Option(help="Cube pose of the first episode; training never saw 0 to 999.")] = 0,
    scheme: Annotated[str, typer.Option(help="How the policy is quantized.")] = "int8-w8a8",
    checkpoint: Annotated[
        Path | None, typer.Option(help="A policy of `pi0-edge train` instead of the shipped one.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="A bundle of the policy instead of a scheme.")] = None,
    accept_failed_gate: AcceptFailedGateOption = False,
    splice: Annotated[
        str | None, typer.Option(help="How a chunk enters: rtc (the default of the flow head), trained-rtc, hold-swap.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the whole path here: simulation, policy, bridge, firmware in QEMU.

    Exit code 1 where no episode succeeds.
    """
    from pi0_edge.demo.policy_choice import PolicyChoice
    from pi0_edge.demo.run import run_demo

    out = Output(as_json)
    choice = PolicyChoice(scheme, bundle, accept_failed_gate, checkpoint)
    summary = run_demo(output, episodes, first_seed, choice, splice, out.print)
    out.table("results of the demo", ("figure", "value"), _rows(summary))
    out.print(f"images and summary.json are in {output}")
    out.finish(vars(summary))
    if not summary.successes:
        raise typer.Exit(1)


def _rows(summary: DemoSummary) -> Iterator[tuple[str, str]]:
    from pi0_edge.demo.summary import Percentiles

    for name, value in {**vars(summary), **vars(summary.quantization)}.items():
        label = name.replace("_", " ")
        if isinstance(value, Percentiles):
            yield label, f"{value}  (p50 / p90 / p99 / max)"
        elif isinstance(value, dict):
            yield from ((f"{label}: {stage}", str(latency)) for stage, latency in value.items())
        elif isinstance(value, list):
            yield label, ", ".join(map(format_number, value)) or "none"
        elif value is not summary.quantization:
            yield label, format_number(value)
