"""`pi0-edge robot provision`: a computer becomes a robot that releases can be flashed to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output


def provision_robot(
    host: Annotated[
        str, typer.Argument(help="The computer, as root or an account with sudo: root@cell-7, or a name for ssh.")
    ],
    trust: Annotated[
        Path | None, typer.Option(help="Trust folder whose releases the robot shall believe; needed once.")
    ] = None,
    robot: Annotated[str | None, typer.Option(help="Robot layout of its policies; needed once.")] = None,
    name: Annotated[str | None, typer.Option(help="Of this robot; else its host name.")] = None,
    hardware: Annotated[
        str | None, typer.Option(help="Kind of its computer, as releases ask for it; else what its device tree says.")
    ] = None,
    environment: Annotated[
        str | None, typer.Option(metavar="PATH", help="Python environment on the robot that has pi0-edge.")
    ] = None,
    sdk_folder: Annotated[
        Path | None, typer.Option(help="Wheels from `release sdk`, which become its environment, without a network.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="What runs the network there: cpu, cuda, tensorrt, openvino.")
    ] = None,
    budget_ms: Annotated[float | None, typer.Option(min=0.001, help="Longest time that a chunk may take.")] = None,
    bridge: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where its bridge answers; it is then a service.")
    ] = None,
    no_bridge: Annotated[bool, typer.Option("--no-bridge", help="It has no microcontroller.")] = False,
    serial_port: Annotated[str | None, typer.Option(help="Serial device of the bridge.")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the policy server's figures for Prometheus.")
    ] = None,
    watchdog_s: Annotated[
        float | None, typer.Option(min=0.1, help="Silence after which systemd ends the policy server, in seconds.")
    ] = None,
    trial_s: Annotated[
        float | None, typer.Option(min=0, help="Seconds that a release must run well before it is committed.")
    ] = None,
    flash_key: Annotated[
        Path | None, typer.Option(metavar="PUBLIC_KEY", help="Key that may flash; else this user's, which is made.")
    ] = None,
    accept_new_host: Annotated[
        str | None, typer.Option(metavar="FINGERPRINT", help="Key of a robot that is not known here, compared on it.")
    ] = None,
    ssh_config: Annotated[
        Path | None, typer.Option("--ssh-config", help="Configuration of ssh, instead of the user's own.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Give a computer the accounts, folders, services and settings of a robot.

    Again, it brings them up to date; what is not given stays as it is on the robot. It needs python3, rsync, sshd and
    systemd there, and no network.
    """
    from pi0_edge.deploy.provisioning.flash_keys import own_public_key
    from pi0_edge.deploy.provisioning.provision import ProvisionRequest, provision

    if bridge is not None and no_bridge:
        raise typer.BadParameter("--bridge and --no-bridge exclude each other")
    settings: dict[str, Any] = {
        "robot": robot,
        "name": name,
        "hardware": hardware,
        "environment": environment,
        "engine": engine,
        "budget_ms": budget_ms,
        "bridge": bridge,
        "metrics_port": metrics_port,
        "trial_s": trial_s,
    }
    settings = {option: value for option, value in settings.items() if value is not None}
    if no_bridge:
        settings["bridge"] = None
    if serial_port is not None:
        listen = () if bridge is None else ("--listen", bridge)
        layout = () if robot is None else ("--robot", robot)
        settings["bridge_arguments"] = ("--port", serial_port, *listen, *layout)
    out = Output(as_json)
    with out.progress() as show:
        done = provision(
            host,
            ProvisionRequest(
                own_public_key() if flash_key is None else flash_key,
                settings=settings,
                trust_folder=trust,
                sdk_folder=sdk_folder,
                watchdog_s=watchdog_s,
            ),
            ssh_config=ssh_config,
            accept_new_host=accept_new_host,
            on_reason=out.print,
            on_progress=show,
        )
    out.finish({"settings": done.settings, "changes": done.changes})
