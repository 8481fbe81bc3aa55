"""The installer's side of a session: one request after the other, each with its reasons and its end."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

from pi0_edge.deploy.installer.garbage import collect_garbage, make_basis
from pi0_edge.deploy.installer.installation import install
from pi0_edge.deploy.installer.offer import answer_offer
from pi0_edge.deploy.installer.robot import Robot
from pi0_edge.deploy.installer.rollback import roll_back
from pi0_edge.deploy.installer.status import status
from pi0_edge.deploy.installer.trial import commit_trial
from pi0_edge.deploy.launcher.journal import read_entries, write_entry
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.session import RobotBusyError, receive, send
from pi0_edge.errors import DeployError, Pi0EdgeError
from pi0_edge.latency.certificate import parse_certificate
from pi0_edge.progress import Progress

READING = ("status", "history")
_HISTORY = 50

logger = logging.getLogger(__name__)


class Conversation:
    """Answers the requests of one connection."""

    def __init__(self, robot: Robot, requests: BinaryIO, answers: BinaryIO) -> None:
        """Prepares it.

        Args:
            robot: Of this installer; its reasons and progress go to the workstation.
            requests: From the workstation.
            answers: To it; where it is gone, the work goes on without it.
        """
        self._requests, self._answers = requests, answers
        self._robot = dataclasses.replace(robot, tell=self._tell, on_progress=self._show)
        self._lock: contextlib.ExitStack = contextlib.ExitStack()
        self._locked = False

    def serve(self) -> None:
        """Answers until the workstation closes its side."""
        with self._lock:
            while True:
                try:
                    request = receive(self._requests)
                except (DeployError, OSError) as error:
                    self._send({"error": str(error)})
                    return
                if request is None:
                    return
                self._answer(request)

    def _answer(self, request: Mapping[str, Any]) -> None:
        try:
            self._send({"result": self._work(request)})
        except Pi0EdgeError as error:
            self._refuse(request, str(error), busy=isinstance(error, RobotBusyError))
        except Exception as error:
            logger.exception("a request failed")
            self._refuse(request, f"the installer failed ({type(error).__name__}: {error}); its log says where")

    def _refuse(self, request: Mapping[str, Any], why: str, *, busy: bool = False) -> None:
        if busy:  # it will ask again, and again: nothing was decided
            self._send({"error": why, "busy": True})
            return
        if request.get("verb") not in READING:
            write_entry(self._robot.layout, "refused", f"{request.get('verb')}: {why}")
        self._send({"error": why})

    def _work(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        verbs: dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
            "status": lambda _: status(self._robot),
            "history": lambda r: {"entries": read_entries(self._robot.layout, int(r.get("count", _HISTORY)))},
            "offer": self._offer,
            "install": self._install,
            "commit": self._commit,
            "rollback": self._roll_back,
            "gc": lambda _: collect_garbage(self._robot),
        }
        verb = str(request.get("verb"))
        if verb not in verbs:
            raise DeployError(
                f"the installer knows {', '.join(verbs)} and was asked for {verb!r:.40}; update the older side"
            )
        if verb not in READING and not self._locked:
            self._lock.enter_context(installer_lock(self._robot.layout))
            self._locked = True
        return verbs[verb](request)

    def _offer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        wheels = {str(name): int(size) for name, size in dict(request.get("sdk") or {}).items()}
        answer = answer_offer(self._robot, str(request.get("manifest_sha256")), wheels)
        if answer.lacking:
            make_basis(self._robot)
        return {"state": answer.state, "release": answer.release.id, "lacking": answer.lacking}

    def _install(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        budget, certificate = request.get("budget_ms"), request.get("certificate")
        return install(
            self._robot,
            str(request.get("manifest_sha256")),
            budget_ms=None if budget is None else float(budget),
            certificate=None if certificate is None else parse_certificate(dict(certificate), "the certificate sent"),
            commit=bool(request.get("commit", True)),
        )

    def _commit(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        slot = commit_trial(self._robot)
        self._tell("committed: a person asked for it")
        write_entry(
            self._robot.layout, "committed", "a person asked for it", release=slot.release, sequence=slot.sequence
        )
        return {"release": slot.release}

    def _roll_back(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        slot = roll_back(self._robot, str(request.get("reason") or ""))
        return {"release": None if slot is None else slot.release}

    def _tell(self, reason: str) -> None:
        self._send({"reason": reason})

    def _show(self, progress: Progress) -> None:
        self._send({"stage": progress.stage, "done": progress.done, "total": progress.total, "note": progress.note})

    def _send(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the workstation is gone; the robot goes on alone
            send(self._answers, message)


@contextlib.contextmanager
def installer_lock(layout: Layout) -> Iterator[None]:
    """Lets one installer work at a time.

    Raises:
        RobotBusyError: If another one does.
    """
    layout.runtime.mkdir(parents=True, exist_ok=True)
    with layout.lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RobotBusyError(
                "somebody else flashes this robot at this moment; wait, then run the command again"
            ) from error
        yield
