"""A server in a process of its own, in an empty folder: what it takes, what it leaves behind, whom it still answers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

STARTS_S = 60.0


class WatchedServer:
    """`pi0-edge` with some arguments; a context manager.

    Attributes:
        addresses: Where it listens, by the words before `ready on`, such as `policy` and `openpi`.
        folder: Its working folder and home, which stays empty.
    """

    def __init__(self, folder: Path, arguments: Sequence[str], ready: str, lines: int = 1) -> None:
        """Starts it.

        Args:
            folder: Takes its working folder and its log.
            arguments: Of the command line.
            ready: Pattern with the groups `name` and `address` in each of its first lines.
            lines: How many lines that is.
        """
        self.folder = folder / "work"
        self.folder.mkdir(parents=True)
        self._log = folder / "log"
        environment = {**os.environ, "HOME": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pi0_edge.cli", *arguments],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
            )
        self.addresses: dict[str, str] = {}
        self._seen = psutil.Process(self._process.pid)
        try:
            self._wait_ready(ready, lines)
        except BaseException:
            self.__exit__()
            raise

    def _wait_ready(self, ready: str, lines: int) -> None:
        end = time.monotonic() + STARTS_S
        while len(self.addresses) < lines:
            assert self._process.poll() is None and time.monotonic() < end, self.log()
            self.addresses = {found["name"]: found["address"] for found in re.finditer(ready, self.log())}
            time.sleep(0.05)

    def __enter__(self) -> WatchedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        """What it wrote."""
        return self._log.read_text(errors="replace")

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def memory_mib(self) -> float:
        """Memory that it has."""
        return self._seen.memory_info().rss / 2**20

    def children(self) -> int:
        """Processes that it started."""
        return len(self._seen.children(recursive=True))

    def connections(self) -> int:
        """Files and sockets that it has open."""
        return self._seen.num_fds()

    def files(self) -> list[str]:
        """What lies in its folder."""
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*"))


@dataclass
class Good:
    """A client that asks rightly while others do not.

    Attributes:
        answers: How often it was answered.
        slowest_s: The longest time that this took.
        failed: What went wrong instead.
    """

    answers: int = 0
    slowest_s: float = 0.0
    failed: list[str] = field(default_factory=list)


@contextmanager
def asking(ask: Callable[[], object], every_s: float = 0.2) -> Iterator[Good]:
    """Asks again and again in a thread of its own, while inside, and once more at the end."""
    good, stop = Good(), threading.Event()

    def once() -> None:
        began = time.monotonic()
        try:
            ask()
        except Exception as error:
            good.failed.append(f"{type(error).__name__}: {error}"[:300])
        else:
            good.answers += 1
            good.slowest_s = max(good.slowest_s, time.monotonic() - began)

    def again() -> None:
        while not stop.wait(every_s):
            once()

    thread = threading.Thread(target=again, daemon=True)
    thread.start()
    try:
        yield good
    finally:
        stop.set()
        thread.join(60)
        once()
