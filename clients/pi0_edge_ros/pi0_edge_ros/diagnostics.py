"""What the node says about itself, as a `diagnostic_msgs/DiagnosticStatus` holds it."""

from __future__ import annotations

from typing import NamedTuple

from pi0_edge_ros.session import Session

OK, WARN, ERROR = b"\x00", b"\x01", b"\x02"
"""The levels of `diagnostic_msgs/DiagnosticStatus`."""


class Diagnosis(NamedTuple):
    """One status.

    Attributes:
        level: `OK`, `WARN` or `ERROR`.
        message: In a sentence.
        values: Names and values, both for people and for programs.
    """

    level: bytes
    message: str
    values: dict[str, str]


def diagnose(session: Session | None, server: str, stopped: str) -> Diagnosis:
    """How the node is.

    Args:
        session: Where the node is configured.
        server: Address of the policy server.
        stopped: Why the node stopped by itself; empty where it did not.
    """
    values = {"server": server}
    if session is None:
        return Diagnosis(ERROR if stopped else OK, stopped or "not configured", values)
    counts = session.counts
    values |= {name: f"{value:.1f}" if isinstance(value, float) else str(value) for name, value in vars(counts).items()}
    values["prompt"] = session.inbox.prompt
    if stopped:
        return Diagnosis(ERROR, stopped, values)
    if not session.is_active:
        return Diagnosis(OK, "configured, sends nothing", values)
    if session.problem:
        return Diagnosis(WARN, session.problem, values)
    return Diagnosis(OK, "moves the arm" if counts.chunks else "waits for the first chunk", values)
