"""Carries a serial line into a container: `serial_relay.py listen PORT DEVICE` and `serial_relay.py pty PORT LINK`.

The first runs on this machine in the network of the container, the second inside of it; between them is a connection of
its loopback. LINK becomes a pseudo-terminal that the group dialout may open.
"""

from __future__ import annotations

import os
import pty
import select
import shutil
import socket
import sys
import tty


def carry(one: int, other: int) -> None:
    """Passes bytes in both directions until one side ends."""
    ends = {one: other, other: one}
    while True:
        for end in select.select(list(ends), [], [])[0]:
            try:
                block = os.read(end, 4096)
            except OSError:  # nobody has the pseudo-terminal open at the moment
                select.select([], [], [], 0.02)
                continue
            if not block:
                return
            while block:
                block = block[os.write(ends[end], block) :]


def main() -> None:
    kind, port, path = sys.argv[1:]
    address = ("127.0.0.1", int(port))
    if kind == "listen":
        device = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(device)
        with socket.create_server(address) as server:
            print("ready", flush=True)
            connection, _ = server.accept()
            carry(device, connection.fileno())
    else:
        master, slave = pty.openpty()
        tty.setraw(slave)
        shutil.chown(os.ttyname(slave), group="dialout")
        os.chmod(os.ttyname(slave), 0o660)
        os.symlink(os.ttyname(slave), path)
        with socket.create_connection(address) as connection:
            carry(master, connection.fileno())


if __name__ == "__main__":
    main()
