"""/usr/lib/pi0-edge/main.py on a robot: what units of systemd and the account pi0-flash run.

main.py launch policy|bridge|firmware|run|installer
main.py fallback | end-trial | ssh
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from pi0_edge.deploy.launcher.fallback import fall_back, trial_ran_out
from pi0_edge.deploy.launcher.launch import PARTS, launch
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.services import Systemd
from pi0_edge.deploy.launcher.ssh_entry import enter
from pi0_edge.errors import DeployError

_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    layout = Layout()
    try:
        match given:
            case ["launch", part] if part in PARTS:
                launch(part, layout)
            case ["fallback"]:
                fall_back(layout, Systemd())
            case ["end-trial"]:
                trial_ran_out(layout, Systemd())
            case ["ssh"]:
                return enter(layout, os.environ.get("SSH_ORIGINAL_COMMAND"))
            case _:
                sys.stderr.write(f"main.py: unknown command {given}; see {__name__}\n")
                return _USAGE
    except DeployError as error:
        sys.stderr.write(f"error: {error}\n")
        return _USAGE
    return 0
