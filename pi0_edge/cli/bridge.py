"""`pi0-edge bridge`: from chunks over gRPC to the microcontroller; needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pi0_edge.cli.options import JsonOption, LogJsonOption, MetricsPortOption, TlsOption
from pi0_edge.cli.output import Output

if TYPE_CHECKING:
    from firmware_bridge.link.identity import BoardIdentity


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
    identify: Annotated[
        bool, typer.Option("--identify", help="Only say what the board on the port is; nothing is armed.")
    ] = False,
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
    if identify:
        _identify(out, port, robot, baud)
        return
    out.print(f"bridge between {listen} and {port} ({robot}); Ctrl-C disarms and ends it")
    serve_bridge(port, listen, robot, baud=baud, splice=splice, workspace=workspace, tls=tls, metrics_port=metrics_port)
    out.finish({"stopped": True, "port": port, "robot": robot})


def _identify(out: Output, port: str, robot: str, baud: int) -> None:
    from firmware_bridge.firmware.joint_table import load_joint_table
    from firmware_bridge.link.identity import identify_board
    from pi0_edge.protos.serial_link import SCHEMA_HASH, VERSION

    table = load_joint_table(robot)
    board = identify_board(port, baud)
    if board.protocol_version is None:
        out.print(
            f"{port}: its firmware was built from other serial messages (schema {board.schema_hash:#010x}) than this "
            f"SDK (protocol {VERSION}, schema {SCHEMA_HASH:#010x})"
        )
    else:
        out.print(f"{port}: protocol {board.protocol_version}, {board.joints} joints, the arm is {_state_of(board)}")
    if board.limits_hash is not None:
        same = board.limits_hash == table.limits_hash
        meaning = f"that of {robot}" if same else f"not that of {robot}, {table.limits_hash:#010x}"
        out.print(f"its joint table is {board.limits_hash:#010x}, {meaning}")
    out.finish(
        {
            "port": port,
            "schema_hash": board.schema_hash,
            "protocol_version": board.protocol_version,
            "limits_hash": board.limits_hash,
            "joints": board.joints,
            "state": _state_of(board),
            "held": board.held,
            "moving": board.moving,
            "robot": robot,
            "robot_limits_hash": table.limits_hash,
        }
    )


def _state_of(board: BoardIdentity) -> str:
    return "UNKNOWN" if board.state is None else board.state.name
