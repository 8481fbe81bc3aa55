"""`pi0-edge bench compare`: whether one result is faster than another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output


def compare(
    first: Annotated[Path, typer.Argument(help="The .json of a result.")],
    second: Annotated[Path, typer.Argument(help="That of another; it is divided by the first.")],
    as_json: JsonOption = False,
) -> None:
    """Say whether the second result is faster or slower than the first, or that there is no difference.

    Two results of one `bench --against` are paired, which sees differences that a machine would otherwise hide.
    """
    from pi0_edge.bench.comparison import compare_results
    from pi0_edge.bench.result import load_result

    results = load_result(first), load_result(second)
    found = compare_results(*results)
    out = Output(as_json)
    for name, result in zip(("first", "second"), results, strict=True):
        policy = result.policy
        how = f"{policy.scheme} on {policy.engine}, gate {policy.gate}, {policy.euler_steps} Euler steps"
        if policy.protocol:
            how += f", asked over {policy.protocol}"
        out.print(f"{name}: {policy.name}, {how}, boundary {result.boundary}")
    for comparison in found:
        out.print(str(comparison))
    out.finish({"comparisons": [{**vars(one), "differs": one.differs} for one in found]})
