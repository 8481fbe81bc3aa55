"""Starts a service from the release that was chosen: what is on trial, else what is committed.

The choice is made once, and the process that follows has real paths: whatever is committed while it runs, it never sees
files of two releases.
"""

from __future__ import annotations

import os
from typing import Literal, NoReturn, get_args

from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.settings import RobotSettings, read_settings
from pi0_edge.deploy.launcher.slots import Slot, read_slots, read_trial
from pi0_edge.errors import DeployError

Part = Literal["policy", "bridge", "firmware", "run", "installer"]
PARTS: tuple[Part, ...] = get_args(Part)


def launch(part: Part, layout: Layout) -> NoReturn:
    """Becomes the service.

    Raises:
        DeployError: If there is no release, or its environment does not start.
    """
    argv = command_line(part, layout)
    try:
        os.execv(argv[0], argv)  # noqa: S606 - the paths are root's own
    except OSError as error:
        raise DeployError(f"{argv[0]} does not start ({error.strerror}); is the SDK environment there?") from error


def command_line(part: Part, layout: Layout) -> list[str]:
    """The program and arguments of a service.

    Raises:
        DeployError: If there is no release to serve, or the settings cannot be read.
    """
    settings = read_settings(layout)
    if part == "installer":  # never that of a trial: it judges the trial
        slot = read_slots(layout).current
        return [_python(slot, settings), "-m", "pi0_edge.deploy.installer"]
    slot = read_trial(layout) or read_slots(layout).current
    if part == "firmware":  # before the bridge starts
        return [_python(slot, settings), "-m", "pi0_edge.deploy.installer.firmware_slot"]
    command = [_python(slot, settings), "-m", "pi0_edge.cli"]
    if part == "bridge":
        return [*command, "bridge", *settings.bridge_arguments]
    if part == "run":
        return [*command, "run", *settings.run_arguments]
    if slot is None:
        raise DeployError("no release is installed on this robot; `pi0-edge flash` sends one")
    return [
        *command,
        *("serve", "--bundle", str(layout.bundle(slot.release))),
        *("--engine", settings.engine, "--listen", settings.policy_listen),
        *(() if settings.budget_ms is None else ("--budget-ms", str(settings.budget_ms))),
        *(() if settings.metrics_port is None else ("--metrics-port", str(settings.metrics_port))),
        *settings.serve,
    ]


def _python(slot: Slot | None, settings: RobotSettings) -> str:
    environment = settings.environment if slot is None else slot.environment
    return f"{environment}/bin/python"
