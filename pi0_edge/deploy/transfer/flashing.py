"""One flash over all its connections: send what the robot reads first, ask what it lacks, send that, ask to install."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi0_edge.deploy.session import RobotBusyError
from pi0_edge.deploy.transfer.release_files import ReleaseFiles
from pi0_edge.deploy.transfer.rsync import TransferMeter, megabytes, send_files
from pi0_edge.deploy.transfer.sessions import Session
from pi0_edge.deploy.transfer.ssh import LinkLostError
from pi0_edge.errors import DeployError
from pi0_edge.latency.certificate import Certificate
from pi0_edge.progress import ProgressCallback

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
BUSY_S, BUSY_WAIT_S = 30.0, 2.0
"""How long another session is waited for: a robot needs 20 s to see that a link was lost. Once the installation was
asked for, the other session is this one's own, which goes on alone, and is waited for until the deadline."""


@dataclass(frozen=True)
class FlashResult:
    """What a flash came to.

    Attributes:
        state: "committed", or "trial" where it was not to be committed.
        release: ID of the release.
        bytes_needed: Bytes that the robot lacked when it was asked first.
        bytes_sent: Bytes that went to it over all connections, encrypted; None where the system does not count them.
        connections: How many it took.
        seconds: How long.
        answer: All that the installer said.
    """

    state: str
    release: str
    bytes_needed: int
    bytes_sent: int | None
    connections: int
    seconds: float
    answer: dict[str, Any]


class Flash:
    """One release to one robot."""

    def __init__(
        self,
        files: ReleaseFiles,
        open_session: Callable[[], AbstractContextManager[Session]],
        *,
        staging: Path | None,
        commit: bool,
        budget_ms: float | None,
        certificate: Certificate | None,
        deadline_s: float,
        bwlimit_kbps: int | None,
        on_reason: Callable[[str], object],
        on_progress: ProgressCallback,
    ) -> None:
        """Says what to do.

        Args:
            files: The release.
            open_session: Connects to the robot.
            staging: Its staging folder where this is the robot; None over ssh.
            commit: Commit after the trial; else it stays on trial until `commit` or the next restart.
            budget_ms: Longest time that a chunk may take, instead of the robot's own.
            certificate: Serving certificate of the bundle, with which the robot compares that; None where none is.
            deadline_s: How long a lost link is made again, in seconds.
            bwlimit_kbps: Most that is sent in a second, in units of 1024 bytes.
            on_reason: Is called with each decision.
            on_progress: Is called with each step of a stage.

        Raises:
            DeployError: If the certificate is of another bundle.
        """
        if certificate is not None:
            for difference in certificate.differences(bundle_sha256=files.manifest_sha256):
                raise DeployError(f"the serving certificate is not of {files.bundle}: {difference}; certify it anew")
        self._files, self._open_session, self._staging = files, open_session, staging
        self._request: dict[str, Any] = {
            "manifest_sha256": files.manifest_sha256,
            "budget_ms": budget_ms,
            "commit": commit,
        }
        if certificate is not None:
            self._request["certificate"] = certificate.to_dict()
        self._deadline_s, self._bwlimit_kbps = deadline_s, bwlimit_kbps
        self._on_reason, self._on_progress = on_reason, on_progress
        self._begin = time.monotonic()
        self._connections = 0
        self._needed: int | None = None
        self._sent: int | None = 0
        self._moved = self._asked = False

    def run(self) -> FlashResult:
        """Does it.

        Raises:
            LinkLostError: If the robot cannot be reached at all, or not again before the deadline.
            DeployError: If the robot refuses the release, or took it back.
        """
        wait_s, busy_since = FIRST_WAIT_S, None
        while True:
            self._moved = False
            try:
                return self._result(self._attempt())
            except LinkLostError as error:
                if not self._connections:
                    raise
                busy_since = None
                wait_s = FIRST_WAIT_S if self._moved else min(2 * wait_s, LONGEST_WAIT_S)
                self._wait(wait_s, error)
            except RobotBusyError as error:
                busy_since = busy_since or time.monotonic()
                if time.monotonic() - busy_since > BUSY_S and not self._asked:
                    raise
                self._wait(BUSY_WAIT_S, error)

    def _wait(self, seconds: float, error: DeployError) -> None:
        """Waits before the next connection, as long as the deadline is not near."""
        left_s = self._begin + self._deadline_s - time.monotonic()
        if left_s < seconds:
            raise LinkLostError(
                f"{error}; not again within {self._deadline_s:g} s: run the command again, it goes on from here"
            ) from error
        self._on_reason(f"link: {error}; again in {seconds:g} s, {left_s:.0f} s are left")
        time.sleep(seconds)

    def _attempt(self) -> dict[str, Any]:
        """All that is left to do, over one connection."""
        with self._open_session() as session:
            self._connections += 1
            try:
                self._send(session, self._files.first, lambda done: None)
                if (done := self._complete(session)) is not None:
                    return done
                self._moved = self._asked = True
                return session.ask("install", **self._request)
            finally:
                self._count(session)

    def _complete(self, session: Session) -> dict[str, Any] | None:
        """Sends what the robot lacks; gives its answer where the release runs there already."""
        offer = session.ask("offer", manifest_sha256=self._files.manifest_sha256, sdk=self._files.wheels)
        lacking = {str(name): int(size) for name, size in offer.get("lacking", {}).items()}
        if self._needed is None:
            self._needed = sum(lacking.values())
        if offer["state"] == "committed" or (offer["state"] == "trial" and not self._request["commit"]):
            return offer
        total = sum(self._files.sizes.values())
        if not lacking:
            self._on_reason("send: nothing, the robot has every file")
            return None
        size, files = sum(lacking.values()), "file" if len(lacking) == 1 else "files"
        self._on_reason(f"send: {len(lacking)} {files} of {megabytes(size)}; the release has {megabytes(total)}")
        self._send(session, lacking, TransferMeter(size, self._on_progress).at)
        return None

    def _send(self, session: Session, names: Any, on_bytes: Callable[[int], object]) -> None:
        done = 0

        def arrived(count: int) -> None:
            self._moved = self._moved or count > 0
            on_bytes(done + count)

        for source, group, below in self._files.groups(names):
            prefix = "bundle/" if below.endswith("/bundle") else ""
            where = below if self._staging is None else str(self._staging / below)
            send_files(session.connection, source, group, where, bwlimit_kbps=self._bwlimit_kbps, on_bytes=arrived)
            done += sum(self._files.sizes[prefix + name] for name in group)

    def _count(self, session: Session) -> None:
        sent = None if session.connection is None else session.connection.bytes_sent()
        self._sent = None if sent is None or self._sent is None else self._sent + sent

    def _result(self, answer: dict[str, Any]) -> FlashResult:
        needed = self._needed or 0
        if self._connections > 1 and self._sent is not None:
            again = max(0, self._sent - needed)
            self._on_reason(
                f"sent: {megabytes(self._sent)} over {self._connections} connections for {megabytes(needed)}, "
                f"{megabytes(again)} of it again or as overhead"
            )
        return FlashResult(
            state=str(answer.get("state", "")),
            release=str(answer.get("release", "")),
            bytes_needed=needed,
            bytes_sent=self._sent,
            connections=self._connections,
            seconds=round(time.monotonic() - self._begin, 1),
            answer=answer,
        )


def one_bundle_in(folder: Path) -> Path:
    """The bundle on a USB stick: the folder itself, or the only one in it that has a statement beside it.

    Raises:
        DeployError: If there is none or more than one.
    """
    if (folder / "manifest.json").is_file():
        return folder
    found = [path.parent for path in sorted(folder.glob("*/manifest.json"))]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DeployError(
            f"{folder} should hold one bundle with its statement beside it, found {names}; name the folder"
        )
    return found[0]
