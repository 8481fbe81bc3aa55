"""A bad network for ssh, as its ProxyCommand: it ends at an exact byte, is slow, late, or hangs.

Everything that ssh and rsync send passes through here. Counts are of encrypted bytes towards the robot.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

BLOCK = 32768


@dataclass(frozen=True)
class Link:
    """One connection.

    Attributes:
        cut_after: Bytes to the robot after which the connection is dead; None never cuts it.
        rate: Bytes a second to the robot; None is as fast as it goes.
        delay: Seconds that each block waits, in both directions.
        stall: A dead connection hangs, as with a robot that lost its radio, and does not close.
    """

    cut_after: int | None = None
    rate: float | None = None
    delay: float = 0.0
    stall: bool = False


def write_plan(plan: Path, links: Sequence[Link]) -> None:
    """Says what the next connections are like, one after another; the last of them is like all that follow."""
    plan.write_text("".join(json.dumps(asdict(link)) + "\n" for link in links))


def next_link(plan: Path) -> Link:
    """Takes the next connection from the plan."""
    with plan.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lines = file.readlines()
        if len(lines) > 1:
            file.seek(0)
            file.truncate()
            file.writelines(lines[1:])
    return Link(**json.loads(lines[0]))


def carry(peer: socket.socket, link: Link, carried: Path) -> None:
    """Carries bytes between standard input and output and the robot until either side ends.

    Args:
        peer: Connected to the robot's sshd.
        link: How well.
        carried: One line is added with the count of bytes to the robot.
    """
    counted = Counter(carried)
    signal.signal(signal.SIGHUP, lambda number, frame: counted.end(0))  # ssh has ended

    def towards_robot() -> None:
        begin = time.monotonic()
        while block := os.read(0, BLOCK):
            if link.cut_after is not None:
                block = block[: link.cut_after - counted.bytes]
            time.sleep(link.delay)
            peer.sendall(block)
            counted.bytes += len(block)
            if link.cut_after is not None and counted.bytes >= link.cut_after:
                while link.stall:
                    time.sleep(1)
                counted.end(1)
            if link.rate:
                time.sleep(max(0.0, begin + counted.bytes / link.rate - time.monotonic()))
        peer.shutdown(socket.SHUT_WR)

    threading.Thread(target=towards_robot, daemon=True).start()
    try:
        while block := peer.recv(BLOCK):
            time.sleep(link.delay)
            view = memoryview(block)
            while view:
                view = view[os.write(1, view) :]
    except OSError:
        counted.end(1)
    counted.end(0)


class Counter:
    """Counts bytes and writes the count down once, however the connection ends."""

    def __init__(self, carried: Path) -> None:
        self.bytes = 0
        self._carried = carried
        self._lock = threading.Lock()

    def end(self, code: int) -> NoReturn:
        """Ends the process."""
        if self._lock.acquire(blocking=False):  # and never released: the first end counts
            with self._carried.open("a") as file:
                file.write(f"{self.bytes}\n")
        else:
            time.sleep(1)
        os._exit(code)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("host")
    arguments.add_argument("port", type=int)
    arguments.add_argument("--plan", type=Path, required=True)
    arguments.add_argument("--carried", type=Path, required=True)
    given = arguments.parse_args()
    link = next_link(given.plan)
    carry(socket.create_connection((given.host, given.port)), link, given.carried)


if __name__ == "__main__":
    main()
