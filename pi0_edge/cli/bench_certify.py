"""`pi0-edge bench certify`: the serving certificate of a measured result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output


def certify(
    result: Annotated[Path, typer.Argument(help="The .json that `pi0-edge bench` wrote.")],
    robot: Annotated[str, typer.Option(help="The robot: a name, or its .yaml file.")],
    output: Annotated[
        Path, typer.Option(help="The file; BUNDLE.certificate.json beside the bundle is found by `run` and `flash`.")
    ],
    splice: Annotated[
        str | None, typer.Option(help="trained-rtc, rtc or hold-swap; else the best that the policy allows.")
    ] = None,
    baud: Annotated[int, typer.Option(min=1200, help="Bits per second of the serial port.")] = 921600,
    as_json: JsonOption = False,
) -> None:
    """Say with which replanning interval and splice a robot can run a measured policy, and write that down.

    Refuses a result that is void, has too few samples, no paced run, or is of the engine alone.
    """
    import dataclasses

    from pi0_edge.bench import certifying
    from pi0_edge.bench.result import load_result
    from pi0_edge.robots import load_robot

    found = certifying.certify(load_result(result), load_robot(robot), splice=splice, baud=baud)
    found.save(output)
    out = Output(as_json)
    rows = [
        ("policy", f"{found.policy} {found.bundle_sha256[:12]}, {found.engine}, {found.scheme}"),
        ("computer", f"{found.board or 'does not say'}, power mode {found.power_mode or 'none'}"),
        (
            "latency",
            f"{found.boundary}: p50 {found.p50_ms:.4g}, p99 {found.p99_ms:.4g}, longest {found.longest_ms:.4g} ms",
        ),
        ("an observation every", f"{found.replan_ticks} ticks"),
        ("splice", found.splice),
        ("delay", f"{found.delay_ticks} ticks, at most {found.longest_delay_ticks}"),
        ("starves above", f"{found.starves_above_ms:.4g} ms"),
        ("margin", f"{found.margin_ms:.4g} ms, {found.margin_ticks} ticks"),
        ("worst age of information", f"{found.worst_age_ms:.4g} ms"),
    ]
    out.table(f"serving certificate of {found.control_hz:g} ticks per second", ("", ""), rows)
    out.print(f"written to {output}")
    out.finish({"file": output, **dataclasses.asdict(found), "follows": found.to_dict()["follows"]})
