"""A robot as a program sees it: flash a release, look, commit, take back, clean up.

    robot = RobotHost("cell-7", on_reason=print)
    robot.flash(Path("bundles/cups"))
    robot.status()["current"]

Every call may be repeated: it goes on where the last one stopped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.transfer.flashing import Flash, FlashResult, one_bundle_in
from pi0_edge.deploy.transfer.host_keys import require_known_host
from pi0_edge.deploy.transfer.release_files import find_release
from pi0_edge.deploy.transfer.sessions import Session, session_here, session_over
from pi0_edge.deploy.transfer.ssh import FLASH_USER, Connection, HostKeyError
from pi0_edge.latency.certificate import Certificate, find_certificate
from pi0_edge.progress import ProgressCallback

DEADLINE_S = 3600.0
HERE_S = 60.0
"""On the robot itself there is no link to lose; only another session may have to end."""


class RobotHost:
    """One robot, reached over ssh as the account pi0-flash.

    Attributes:
        host: As ssh knows it.
    """

    def __init__(
        self,
        host: str,
        *,
        ssh_config: Path | None = None,
        key: Path | None = None,
        on_reason: Callable[[str], object] | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        """Says where it is; nothing is connected yet.

        Args:
            host: A name of ssh's configuration, an address, or ssh://HOST:PORT.
            ssh_config: Instead of the user's own configuration of ssh.
            key: Private key; None takes the one that `robot provision` made, besides those that ssh finds.
            on_reason: Is called with one line for each decision.
            on_progress: Is called with each step of a stage; the steps of sending are bytes.
        """
        self.host = host
        self._ssh_config, self._key = ssh_config, key
        self._on_reason, self._on_progress = on_reason or _ignore, on_progress or _ignore

    def flash(
        self,
        bundle: Path,
        *,
        commit: bool = True,
        budget_ms: float | None = None,
        certificate: Certificate | None = None,
        deadline_s: float = DEADLINE_S,
        bwlimit_kbps: int | None = None,
    ) -> FlashResult:
        """Sends a signed bundle and has it installed, tested, tried and committed.

        A link that dies on the way is made again until the deadline; the robot keeps what it has.

        Args:
            bundle: Its folder; the statement lies beside it.
            commit: Commit after the trial; else it stays on trial until `commit`, `rollback` or the next restart.
            budget_ms: Longest time that a chunk may take, instead of the robot's own.
            certificate: Serving certificate, with which the robot compares that; None takes the one beside the bundle.
            deadline_s: How long a lost link is made again, in seconds.
            bwlimit_kbps: Most that is sent in a second, in units of 1024 bytes.

        Raises:
            BundleError: If it is no whole bundle.
            BenchError: If the certificate beside it cannot be used.
            LinkLostError: If the robot cannot be reached, or not again before the deadline.
            DeployError: If it is not signed, or the robot refuses it or took it back.
        """
        tell = _once(self._on_reason)
        return Flash(
            find_release(bundle),
            lambda: self._session(tell),
            staging=None,
            commit=commit,
            budget_ms=budget_ms,
            certificate=certificate or find_certificate(bundle),
            deadline_s=deadline_s,
            bwlimit_kbps=bwlimit_kbps,
            on_reason=tell,
            on_progress=self._on_progress,
        ).run()

    def status(self) -> dict[str, Any]:
        """What runs, what would run next, and how it is."""
        return self._ask("status")

    def history(self, count: int | None = None) -> list[dict[str, Any]]:
        """The robot's decisions, the oldest first; the latest `count` of them."""
        return self._ask("history", **({} if count is None else {"count": count}))["entries"]

    def commit(self) -> dict[str, Any]:
        """Commits what is on trial."""
        return self._ask("commit")

    def rollback(self, reason: str = "") -> dict[str, Any]:
        """Takes the robot back to the release before, and lists the current one as bad.

        Args:
            reason: For the robot's journal.
        """
        return self._ask("rollback", reason=reason)

    def gc(self) -> dict[str, Any]:
        """Removes the releases that neither run nor would be fallen back to."""
        return self._ask("gc")

    def accept_host(self, fingerprint: str | None) -> None:
        """Makes sure that ssh knows the robot's key.

        Args:
            fingerprint: That a person compared with the robot's own; None accepts no unknown key.

        Raises:
            DeployError: If the robot is not known and shows another key; the message says its fingerprint.
        """
        added = require_known_host(self.host, ssh_config=self._ssh_config, accepted=fingerprint)
        if added is not None:
            self._on_reason(f"host: {added}")

    def _ask(self, verb: str, **fields: Any) -> dict[str, Any]:
        with self._session() as session:
            return session.ask(verb, **fields)

    @contextlib.contextmanager
    def _session(self, tell: Callable[[str], object] | None = None) -> Iterator[Session]:
        with contextlib.ExitStack() as stack:
            try:
                connection = Connection(self.host, FLASH_USER, ssh_config=self._ssh_config, key=self._key)
                stack.enter_context(connection)
            except HostKeyError:
                self.accept_host(None)  # says the fingerprint
                raise
            yield stack.enter_context(session_over(connection, tell or self._on_reason, self._on_progress))


def flash_from(
    folder: Path,
    *,
    commit: bool = True,
    budget_ms: float | None = None,
    certificate: Certificate | None = None,
    layout: Layout | None = None,
    on_reason: Callable[[str], object] | None = None,
    on_progress: ProgressCallback | None = None,
) -> FlashResult:
    """Flashes the robot that this runs on, from a USB stick: the same session and the same checks.

    Args:
        folder: A bundle with its statement beside it, or the folder that holds both.
        commit: Commit after the trial.
        budget_ms: Longest time that a chunk may take, instead of the robot's own.
        certificate: Serving certificate, with which the robot compares that; None takes the one beside the bundle.
        layout: Where everything lies; None is this machine.
        on_reason: Is called with one line for each decision.
        on_progress: Is called with each step of a stage.

    Raises:
        BundleError: If it is no whole bundle.
        BenchError: If the certificate beside it cannot be used.
        DeployError: If this is no robot, or it refuses the release or took it back.
    """
    here = layout if layout is not None else Layout()
    tell, show = _once(on_reason or _ignore), on_progress or _ignore
    bundle = one_bundle_in(folder)
    return Flash(
        find_release(bundle),
        lambda: session_here(here, tell, show),
        staging=here.staging,
        commit=commit,
        budget_ms=budget_ms,
        certificate=certificate or find_certificate(bundle),
        deadline_s=HERE_S,
        bwlimit_kbps=None,
        on_reason=tell,
        on_progress=show,
    ).run()


def _ignore(told: object) -> None:
    """Where nobody wants to know."""


def _once(tell: Callable[[str], object]) -> Callable[[str], None]:
    """Tells each reason once: a robot checks the same before it receives and before it installs."""
    told: set[str] = set()

    def tell_once(reason: str) -> None:
        if reason not in told:
            told.add(reason)
            tell(reason)

    return tell_once
