"""The installer of one connection: requests on standard input, answers on standard output, log on standard error."""

from __future__ import annotations

import logging
import signal
import sys

from pi0_edge.deploy.installer.conversation import Conversation
from pi0_edge.deploy.installer.robot import Robot
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.services import Systemd
from pi0_edge.deploy.launcher.settings import read_settings
from pi0_edge.deploy.session import send
from pi0_edge.errors import DeployError


def main() -> int:
    """Serves one session."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s %(levelname)s %(message)s")
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    layout = Layout()
    try:
        settings = read_settings(layout)
    except DeployError as error:
        send(sys.stdout.buffer, {"error": str(error)})
        return 2
    Conversation(Robot(layout, settings, Systemd()), sys.stdin.buffer, sys.stdout.buffer).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
