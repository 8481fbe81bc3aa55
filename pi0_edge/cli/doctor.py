"""`pi0-edge doctor`: what this machine can do."""

from __future__ import annotations

from typing import Annotated

import typer

from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output


def doctor(
    on_robot: Annotated[
        bool, typer.Option("--on-robot", help="Leave out what only demo, tests and building need.")
    ] = False,
    real_time: Annotated[
        bool, typer.Option("--real-time", help="Only look at what decides how late the bridge can be.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine can do.

    Exit code 1 where demo or tests cannot run on it; with `--on-robot`, where a policy cannot. What `--real-time` finds
    is advice: it never decides the exit code.
    """
    from pi0_edge.doctor import examine

    out = Output(as_json)
    with out.console.status("looking"):
        checks = list(examine(on_robot=on_robot, real_time=real_time))
    out.table("this machine", ("check", "status", "found"), [(c.name, c.status, c.found) for c in checks])
    for check in checks:
        if check.status != "pass":
            out.print(f"{check.status}: {check.name}: {check.fix}")
    counts = {status: sum(check.status == status for check in checks) for status in ("pass", "warn", "fail")}
    out.print(", ".join(f"{count} {status}" for status, count in counts.items()))
    out.finish({"passed": not counts["fail"], **counts, "checks": checks})
    if counts["fail"]:
        raise typer.Exit(1)
