"""A session with the installer of a robot: over ssh, or on the robot itself through its socket."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, cast

from pi0_edge.deploy import session as language
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.transfer.ssh import Connection, LinkLostError, last_line
from pi0_edge.errors import DeployError
from pi0_edge.progress import ProgressCallback

COMMAND = "pi0-edge"
"""What a client asks for over ssh; the robot runs nothing else than this and rsync."""

END_S = 5.0


class Session:
    """An open session.

    Attributes:
        connection: That it runs over; None on the robot itself.
    """

    def __init__(
        self,
        requests: BinaryIO,
        answers: BinaryIO,
        connection: Connection | None,
        on_reason: Callable[[str], object],
        on_progress: ProgressCallback,
    ) -> None:
        self.connection = connection
        self._requests, self._answers = requests, answers
        self._on_reason, self._on_progress = on_reason, on_progress

    def ask(self, verb: str, **fields: Any) -> dict[str, Any]:
        """Sends a request and waits for its end; `session` has the verbs.

        Raises:
            LinkLostError: If the robot is gone.
            DeployError: If the installer refuses, or there is none.
        """
        request: Mapping[str, Any] = {"verb": verb, **fields}
        try:
            return language.ask(self._requests, self._answers, request, self._on_reason, self._on_progress)
        except OSError as error:
            raise LinkLostError(f"the robot did not take the request ({error})") from error


@contextlib.contextmanager
def session_over(
    connection: Connection,
    on_reason: Callable[[str], object] = lambda reason: None,
    on_progress: ProgressCallback = lambda progress: None,
) -> Iterator[Session]:
    """A session over a connection; leaving the context frees the robot's lock."""
    process = connection.start(COMMAND)
    requests, answers = cast(BinaryIO, process.stdin), cast(BinaryIO, process.stdout)
    ending = cast(BinaryIO, _Ending(answers, lambda: _why_ended(process, connection)))
    try:
        yield Session(requests, ending, connection, on_reason, on_progress)
    finally:
        with contextlib.suppress(OSError):
            requests.close()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
        answers.close()
        cast(BinaryIO, process.stderr).close()


@contextlib.contextmanager
def session_here(
    layout: Layout,
    on_reason: Callable[[str], object] = lambda reason: None,
    on_progress: ProgressCallback = lambda progress: None,
) -> Iterator[Session]:
    """A session on the robot itself.

    Raises:
        DeployError: If no installer listens here.
    """
    with socket.socket(socket.AF_UNIX) as channel:
        try:
            channel.connect(str(layout.socket))
        except OSError as error:
            raise DeployError(
                f"no installer answers at {layout.socket} ({error.strerror}); run this on a robot that `pi0-edge robot "
                "provision` set up, as root or as a member of the group pi0-flash"
            ) from error
        with channel.makefile("rb") as answers, channel.makefile("wb") as requests:
            ending = _Ending(cast(BinaryIO, answers), lambda: LinkLostError("the installer ended the session"))
            yield Session(cast(BinaryIO, requests), cast(BinaryIO, ending), None, on_reason, on_progress)


class _Ending:
    """Answers whose end, also in the middle of a line, is an error that says why."""

    def __init__(self, stream: BinaryIO, why: Callable[[], DeployError]) -> None:
        self._stream, self._why = stream, why

    def readline(self, size: int, /) -> bytes:
        line = self._stream.readline(size)
        if not line.endswith(b"\n") and len(line) < size:
            raise self._why()
        return line


def _why_ended(process: subprocess.Popen[bytes], connection: Connection) -> DeployError:
    """What the end of the answers means: a lost link, or a robot without an installer."""
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
    said = cast(BinaryIO, process.stderr).read().decode(errors="replace")
    if connection.is_lost():
        return LinkLostError(f"the link to {connection.host} was lost: {connection.why_lost()}")
    if process.returncode in (0, 255):
        return LinkLostError(f"the installer of {connection.host} ended the session {last_line(said)}".rstrip())
    return DeployError(
        f"{connection.host} has no working installer: {last_line(said) or f'it ended with {process.returncode}'}; "
        "`pi0-edge robot provision` sets it up"
    )
