"""`pi0-edge bridge`: from chunks over gRPC to the microcontroller; needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pi0_edge.cli.options import JsonOption, LogJsonOption, MetricsPortOption, TlsOption
from pi0_edge.cli.output import Output


def bridge(
    port: Annotated[str, typer.Option(help="Serial device, pseudo-terminal or socket://host:port.")],
    listen: Annotated[str, typer.Option(help="host:port; port 0 takes a free one.")] = "127.0.0.1:50061",
    robot: Annotated[
        str, typer.Option(help="Robot that the firmware was built for: a name, or a .yaml file.")
    ] = "aloha",
    baud: Annotated[int, typer.Option(min=1200, help="Bits per second of the serial port.")] = 921600,
    splice: Annotated[
        str, typer.Option(help="How a chunk enters: hold-swap, linear-blend or temporal-ensemble.")
    ] = "hold-swap",
    workspace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Refuse chunks whose path leaves the boxes of this file.")
    ] = None,
    tls: TlsOption = None,
    metrics_port: MetricsPortOption = None,
    log_json: LogJsonOption = False,
    as_json: JsonOption = False,
) -> None:
    """Play chunks on the microcontroller.

    SIGINT or SIGTERM disarms and ends it.
    """
    from firmware_bridge.bridge.server import serve_bridge
    from pi0_edge.protos.rpc.json_log import log_as_json

    if log_json:
        log_as_json()
    out = Output(as_json)
    out.print(f"bridge between {listen} and {port} ({robot}); Ctrl-C disarms and ends it")
    serve_bridge(port, listen, robot, baud=baud, splice=splice, workspace=workspace, tls=tls, metrics_port=metrics_port)
    out.finish({"stopped": True, "port": port, "robot": robot})
