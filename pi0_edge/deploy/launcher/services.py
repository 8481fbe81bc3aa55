"""The services of systemd, as far as releases need them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Protocol

from pi0_edge.errors import DeployError

POLICY = "pi0-edge-policy.service"
BRIDGE = "pi0-edge-bridge.service"
TRIAL_END = "pi0-edge-trial-end.timer"

ACCOUNT = "pi0-edge"
"""Runs the services, and the self-test."""
LATE = 7
"""Exit code of a policy server that ended itself because its chunks came later than its budget."""

_LIMIT_S = 120.0


@dataclass(frozen=True)
class ServiceState:
    """What systemd says of a unit.

    Attributes:
        active: `active`, `activating`, `inactive`, `failed` …
        result: Why it ended: `success`, `exit-code`, `watchdog`, `start-limit-hit` …
        exit_code: Of its main process; 0 where it has not ended.
        restarts: How often systemd started it again by itself.
        waits: Whether a start or stop that was asked for has not been done yet.
    """

    active: str
    result: str
    exit_code: int
    restarts: int
    waits: bool = False

    @property
    def reason(self) -> str:
        """Why it ended, in words."""
        words = {
            "watchdog": "it gave no sign of life in the time of its watchdog",
            "timeout": "it was not ready in time",
            "oom-kill": "it used more memory than there is",
            "protocol": "it ended before it was ready",
            "start-limit-hit": "it ended again and again after each start",
            "core-dump": "it crashed",
        }
        if self.result == "exit-code" and self.exit_code == LATE:
            return "its chunks came later than its budget"
        if self.result == "exit-code":
            return f"it ended with exit code {self.exit_code}"
        if self.result == "signal":
            return f"it crashed (signal {self.exit_code})"
        return words.get(self.result, f"systemd says {self.result}")


class Services(Protocol):
    """What starts and stops units."""

    def start(self, unit: str) -> None:
        """Asks for a start and does not wait for it."""
        ...

    def stop(self, unit: str) -> None:
        """Stops a unit and waits until it has."""
        ...

    def restart(self, unit: str) -> None:
        """Asks for a restart, whatever state the unit is in, and does not wait for it."""
        ...

    def state(self, unit: str) -> ServiceState:
        """How a unit is."""
        ...


class Systemd:
    """The units of this machine, through systemctl."""

    def start(self, unit: str) -> None:
        """As `Services`."""
        _systemctl("reset-failed", unit, may_fail=True)
        _systemctl("start", "--no-block", unit)

    def stop(self, unit: str) -> None:
        """As `Services`."""
        _systemctl("stop", unit)

    def restart(self, unit: str) -> None:
        """As `Services`; systemd's own counter of failed starts begins anew."""
        _systemctl("reset-failed", unit, may_fail=True)
        _systemctl("restart", "--no-block", unit)

    def state(self, unit: str) -> ServiceState:
        """As `Services`."""
        names = ("ActiveState", "Result", "ExecMainStatus", "NRestarts", "Job")
        lines = _systemctl("show", unit, f"--property={','.join(names)}").splitlines()
        found = dict(line.split("=", 1) for line in lines if "=" in line)
        return ServiceState(
            active=found.get("ActiveState", "unknown"),
            result=found.get("Result", "unknown"),
            exit_code=int(found.get("ExecMainStatus") or 0),
            restarts=int(found.get("NRestarts") or 0),
            waits=found.get("Job", "0") not in ("", "0"),
        )


def _systemctl(*arguments: str, may_fail: bool = False) -> str:
    try:
        argv = ["systemctl", *arguments]
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeployError(f"systemctl {' '.join(arguments)} did not run: {error}") from error
    if ran.returncode and not may_fail:
        raise DeployError(f"systemctl {' '.join(arguments)} failed: {ran.stderr.strip() or ran.returncode}")
    return ran.stdout
