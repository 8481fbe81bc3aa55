"""`pi0-edge bench check`: whether a measured result keeps the budget of a robot, for continuous integration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output

OVER = 1
"""Exit code where the budget is not kept."""


def check(
    result: Annotated[Path, typer.Argument(help="The .json that `pi0-edge bench` wrote.")],
    budget: Annotated[str, typer.Option(help="The robot with a section `latency`: a name, or its .yaml file.")],
    as_json: JsonOption = False,
) -> None:
    """Say whether a result keeps the budget of a robot; what is not known is not kept.

    Exit code 1 where the 99th percentile or the missed periods are over the budget, the samples do not suffice, or the
    result is void, of another boundary or of another rate.
    """
    from pi0_edge.bench.budget import check_budget
    from pi0_edge.bench.result import load_result
    from pi0_edge.robots import load_robot

    found = check_budget(load_result(result), load_robot(budget))
    out = Output(as_json)
    for finding in found.findings:
        out.print(f"{'kept' if finding.passed else 'OVER'}  {finding.name}: {finding.text}")
    out.finish({"passed": found.passed, "reasons": found.reasons, "findings": found.findings})
    if not found.passed:
        raise typer.Exit(OVER)
