"""The way in over ssh: the account pi0-flash may send files into staging and talk to the installer, nothing else.

Its forced command comes here. The installer runs as root in a service of its own, so that it outlives the connection;
here bytes are only passed on between the connection and its socket.
"""

from __future__ import annotations

import os
import selectors
import shutil
import socket
import sys
from typing import NoReturn

from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.errors import DeployError

SESSION = "pi0-edge"
"""What the workstation asks ssh to run for a session with the installer."""
_BLOCK = 65536


def enter(layout: Layout, asked: str | None) -> int:
    """Serves what the workstation asked for.

    Args:
        layout: Of the robot.
        asked: SSH_ORIGINAL_COMMAND.

    Returns:
        The exit code.

    Raises:
        DeployError: If it asked for something else, or the installer does not answer.
    """
    if asked == SESSION:
        return pass_on(layout)
    if asked is not None and asked.startswith("rsync --server "):
        _receive_files(layout)
    raise DeployError("this account receives releases and does nothing else; use `pi0-edge flash`")


def pass_on(layout: Layout) -> int:
    """Passes bytes between standard input and output and the installer, until it closes."""
    with socket.socket(socket.AF_UNIX) as installer, selectors.DefaultSelector() as ready:
        try:
            installer.connect(str(layout.socket))
        except OSError as error:
            raise DeployError(
                f"the installer does not answer at {layout.socket} ({error.strerror}); "
                "on the robot: systemctl status pi0-edge-installer.socket"
            ) from error
        ready.register(installer, selectors.EVENT_READ)
        ready.register(sys.stdin.fileno(), selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is installer:
                    if not (block := installer.recv(_BLOCK)):
                        return 0
                    _write_all(block)
                elif block := os.read(sys.stdin.fileno(), _BLOCK):
                    installer.sendall(block)
                else:
                    ready.unregister(sys.stdin.fileno())
                    installer.shutdown(socket.SHUT_WR)


def _receive_files(layout: Layout) -> NoReturn:
    """Becomes rsync's own restricted server: it writes into staging and reads nothing."""
    program = shutil.which("rrsync")
    if program is None:
        raise DeployError("rrsync is missing on the robot; it comes with rsync 3.2.4 and later: apt-get install rsync")
    os.execv(program, [program, "-wo", str(layout.staging)])  # noqa: S606


def _write_all(block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(sys.stdout.fileno(), view) :]
