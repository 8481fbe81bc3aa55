"""Files to the staging folder of a robot: the system's rsync as a process, with progress, resumed where it stopped.

* `--inplace`: what arrived stays in the file itself, also where rsync on the robot was killed, and no temporary file
  is left that nobody knows. It is safe because nothing that runs lies in the staging folder.
* `--fsync`: a file that rsync calls done is on the disk.
* `--ignore-times`: the robot said what it lacks; size and date of a file that a power cut tore say nothing. What is
  there of a file is compared by blocks, and costs 0.2 % of its size where it was whole.
* `--copy-dest=/.basis`: blocks of the running release are copied on the robot. A basis that is there but was never
  sent a byte of costs nothing; the files in it belong to root, and cannot be written to.
* no compression: weights do not shrink.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import IO

from pi0_edge.deploy.session import RobotBusyError
from pi0_edge.deploy.transfer.ssh import Connection, LinkLostError, last_line, quoted
from pi0_edge.errors import DeployError, MissingDependencyError
from pi0_edge.progress import Progress, ProgressCallback

OLDEST = (3, 2, 4)
"""The first rsync that has --fsync, and quotes names for the other side itself."""
SILENCE_S = 60
BASIS = "/.basis"
STAGE = "sending"

_MAY_SUCCEED_LATER = {10, 12, 30, 35, 255}
"""Exit codes of rsync: socket, protocol stream, time-outs, and that of ssh."""
_AT = re.compile(r"^\s*(\d+)\s+\d+%")
_WINDOW_S = 5.0
_AS_ROOT = "$(test $(id -u) = 0 || echo sudo -n) rsync"


class TransferMeter:
    """Turns bytes that arrived into progress with rate and remaining time."""

    def __init__(self, total: int, on_progress: ProgressCallback) -> None:
        """Reports that sending begins.

        Args:
            total: Bytes of all files.
            on_progress: Is called.
        """
        self.done = 0
        self._total, self._on_progress = total, on_progress
        self._window: deque[tuple[float, int]] = deque()
        self.at(0)

    def at(self, done: int) -> None:
        """Reports that `done` bytes are on the robot."""
        now = time.monotonic()
        self.done = min(done, self._total)
        self._window.append((now, self.done))
        while len(self._window) > 2 and now - self._window[0][0] > _WINDOW_S:
            self._window.popleft()
        self._on_progress(Progress(STAGE, self.done, self._total, self._note()))

    def _note(self) -> str:
        note = f"{megabytes(self.done)} of {megabytes(self._total)}"
        (begin, first), (end, last) = self._window[0], self._window[-1]
        rate = (last - first) / (end - begin) if end > begin else 0.0
        if rate <= 0:
            return note
        minutes, seconds = divmod(round((self._total - self.done) / rate), 60)
        return f"{note}, {megabytes(rate)}/s, {minutes}:{seconds:02d} left"


def send_files(
    connection: Connection | None,
    source: Path,
    names: Sequence[str],
    destination: str,
    *,
    bwlimit_kbps: int | None = None,
    as_root: bool = False,
    on_bytes: Callable[[int], object] = lambda done: None,
) -> None:
    """Sends files to a folder below the staging folder of a robot; files that are there are completed.

    Args:
        connection: To the robot; None where this is the robot: `destination` is then a path.
        source: Folder that `names` lie in.
        names: Relative paths, which the files have below `destination` too.
        destination: Relative to the staging folder; it is made where it is missing.
        bwlimit_kbps: Most that is sent in a second, in units of 1024 bytes; None is as much as goes.
        as_root: `destination` is an absolute path, which root may write to; there are no blocks to compare with.
        on_bytes: Is called with the bytes of these files that are there.

    Raises:
        LinkLostError: If the robot cannot be reached any more; trying again goes on.
        RobotBusyError: If another rsync writes there.
        DeployError: If it cannot be written there, or not be read here.
        MissingDependencyError: If rsync is missing or too old.
    """
    require_rsync()
    argv = ["rsync", "--inplace", "--fsync", "--mkpath", "--ignore-times", "--no-whole-file", f"--timeout={SILENCE_S}"]
    argv += ["--info=progress2", "--no-human-readable", "--no-inc-recursive", "--from0"]
    if bwlimit_kbps is not None:
        argv.append(f"--bwlimit={bwlimit_kbps}")
    if connection is not None:
        argv += ["-e", quoted(*connection.shell_words())]
        argv.append(f"--rsync-path={_AS_ROOT}" if as_root else f"--copy-dest={_basis(destination)}")
        destination = f"robot:{destination}"
    with tempfile.TemporaryDirectory(prefix="pi0-send-") as folder, tempfile.TemporaryFile() as stderr:
        wanted = Path(folder) / "names"
        wanted.write_bytes(b"".join(name.encode() + b"\0" for name in names))
        argv += [f"--files-from={wanted}", f"{source.absolute()}/", f"{destination.rstrip('/')}/"]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr) as process:
            assert process.stdout is not None  # noqa: S101 - asked for above
            try:
                for line in _lines(process.stdout):
                    if (found := _AT.match(line)) is not None:
                        on_bytes(int(found[1]))
                    if connection is not None:
                        connection.bytes_sent()
            except BaseException:
                process.terminate()
                raise
        stderr.seek(0)
        _judge(process.returncode, stderr.read().decode(errors="replace"), connection)


def _basis(destination: str) -> str:
    """The same folder of the running release."""
    return f"{BASIS}/{destination.partition('/')[2]}".rstrip("/")


@cache
def require_rsync() -> None:
    """Refuses an rsync that cannot do this.

    Raises:
        MissingDependencyError: If it is missing or too old.
    """
    if shutil.which("rsync") is None:
        raise MissingDependencyError("rsync is not installed: apt-get install rsync")
    said = subprocess.run(["rsync", "--version"], capture_output=True, text=True, check=False).stdout
    if rsync_version(said) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise MissingDependencyError(f"rsync here is {said.splitlines()[:1]}, expected {wanted} or newer; update it")


def rsync_version(said: str) -> tuple[int, ...]:
    """The version in what `rsync --version` prints; (0,) where there is none, as in other programs of this name."""
    found = re.search(r"rsync\s+version\s+v?(\d+)\.(\d+)\.(\d+)", said)
    return tuple(map(int, found.groups())) if found else (0,)


def megabytes(count: float) -> str:
    """Bytes for people: 1 MB is a million."""
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """Splits at line ends and at carriage returns, as progress comes."""
    rest = b""
    while block := os.read(stream.fileno(), 65536):
        *whole, rest = re.split(rb"[\r\n]", rest + block)
        yield from (line.decode(errors="replace") for line in whole)
    yield rest.decode(errors="replace")


def _judge(code: int, said: str, connection: Connection | None) -> None:
    """Raises what the end of rsync means."""
    if code == 0:
        return
    empty = ("rsync error:", "rsync: connection unexpectedly closed")  # what follows from the reason
    words = [line for line in said.splitlines() if line.strip() and not line.startswith(empty)]
    reason = last_line("\n".join(words)) or last_line(said) or f"rsync ended with {code}"
    if connection is not None and connection.is_lost():
        raise LinkLostError(f"the link to {connection.host} was lost: {connection.why_lost()}")
    if "Another instance of rrsync" in said:
        raise RobotBusyError("another session sends files to this robot; wait for its end")
    refusals = ("/usr/bin/rrsync error", "error: ")  # of rrsync and of the launcher; rsync names itself
    unknown = ("not found", "can't open file")
    refused = next((one for one in words if one.startswith(refusals) or any(word in one for word in unknown)), None)
    if refused is not None:
        raise DeployError(f"the robot refuses rsync: {refused}; `pi0-edge robot provision` sets it up")
    where = "the robot" if connection is None else connection.host
    if "No space left" in said:
        raise DeployError(f"the disk of {where} is full ({reason}); `pi0-edge flash gc` removes old releases")
    if connection is not None and code in _MAY_SUCCEED_LATER:
        raise LinkLostError(f"rsync to {where} ended: {reason}")
    raise DeployError(f"files cannot be sent to {where}: {reason} (rsync ended with {code})")
