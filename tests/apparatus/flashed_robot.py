"""A robot with the real everything: systemd, sshd, installer, policy server; and a workstation that flashes it.

Its policy is as small as one gets, and answers in milliseconds. A fault is planted through the interpreter of its SDK
environment: the service of one release crashes, hangs or is late, while every other program runs as it should.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from observation_sources import write_npz
from policy_builders import write_checkpoint
from robot_container import ROBOT_NAME, RobotContainer

from pi0_edge.deploy.launcher.journal import read_entries
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.slots import Slots, read_slots
from pi0_edge.deploy.provisioning.provision import ProvisionRequest, provision
from pi0_edge.deploy.transfer.robot_host import RobotHost
from pi0_edge.deploy.trust import init_trust, sign_release
from pi0_edge.deploy.trust.statement import StatementOptions

Fault = Literal["crash", "crash later", "hang", "late"]

POLICY = "pi0-edge-policy.service"
BUDGET_MS = 2000.0
WATCHDOG_S = 2.0

_FAULT_TIMES = "/var/cache/pi0-edge/fault-times"
FAULTY_PYTHON = """#!/bin/sh
# The interpreter of the SDK environment, with the fault that /etc/pi0-fault plants in the service of one release.
fault=$(cat /etc/pi0-fault 2>/dev/null)
begins() { cut -d' ' -f1 /proc/uptime >>/var/cache/pi0-edge/fault-times; }
once_it_serves() { until cat /proc/net/tcp* | grep -q ':C383 .* 0A '; do sleep 0.25; done; sleep 0.3; } # port 50051
case "$*" in
*" serve "*"/releases/${fault%% *}-"*)
    case "${fault#* }" in
    crash) begins; exit 1 ;;
    "crash later") (once_it_serves; begins; kill -KILL $$) & ;;
    hang) (once_it_serves; begins; kill -STOP $$) & ;;
    late) begins; exec ENVIRONMENT/bin/good-python "$@" --budget-ms 0.1 ;;
    esac ;;
esac
exec ENVIRONMENT/bin/good-python "$@"
"""


class Workstation:
    """Keys, bundles, and releases of them.

    Attributes:
        trust: The trust folder.
        key: The private key that may flash.
    """

    def __init__(self, folder: Path, bundle: Path | None = None) -> None:
        """Makes keys, and a small bundle where none is given."""
        self._folder = folder
        self.trust = folder / "trust"
        init_trust(self.trust)
        self.key = folder / "flash_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", self.key], check=True)
        self._bundle = bundle or small_bundle(folder / "made")
        self.sequence = 0

    def release(self, name: str | None = None, *, made: Path | None = None, **options: Any) -> Path:
        """The bundle, or another, signed with the next sequence; of the same bytes hardly anything has to be sent."""
        self.sequence += 1
        bundle = self._folder / (name or f"release-{self.sequence}")
        shutil.copytree(made or self._bundle, bundle)
        sign_release(bundle, self.sequence, trust=self.trust, options=StatementOptions(**options))
        return bundle


class FlashedRobot:
    """A provisioned container, and how the workstation reaches it.

    Attributes:
        container: The computer.
        host: As a program of the workstation sees it.
        reasons: What it was told, one line for each decision.
    """

    def __init__(self, container: RobotContainer, workstation: Workstation, **settings: Any) -> None:
        self.container, self.workstation = container, workstation
        self.reasons: list[str] = []
        environment = container.environment()
        container.run(f"mv {environment}/bin/python {environment}/bin/good-python")
        faulty = FAULTY_PYTHON.replace("ENVIRONMENT", environment)
        container.run(f"cat > {environment}/bin/python && chmod 755 {environment}/bin/python", stdin=faulty)
        usual = {"robot": "aloha_sim", "environment": environment, "budget_ms": BUDGET_MS, "trial_s": 3.0}
        usual["serve"] = ("--threads", "1")  # two wait for each other on a busy machine
        provision(
            ROBOT_NAME,
            ProvisionRequest(
                workstation.key.with_suffix(".pub"),
                settings={**usual, **settings},
                trust_folder=workstation.trust,
                watchdog_s=WATCHDOG_S,
            ),
            ssh_config=container.ssh_config,
            on_reason=self.reasons.append,
        )
        self.connect()

    def connect(self) -> None:
        """Anew, as after the robot started again."""
        config = self.container.ssh_config_for("pi0-flash", self.workstation.key)
        self.host = RobotHost(ROBOT_NAME, ssh_config=config, key=self.workstation.key, on_reason=self.reasons.append)

    @property
    def slots(self) -> Slots:
        """As they are on its disk, whether it runs or not."""
        return read_slots(Layout(self.container.path("/")))

    @property
    def current(self) -> int:
        """Sequence of the committed release; 0 where there is none."""
        slot = self.slots.current
        return 0 if slot is None else slot.sequence

    def journal(self) -> list[str]:
        """Events, the oldest first."""
        return [entry["event"] for entry in read_entries(Layout(self.container.path("/")))]

    def plant(self, sequence: int, fault: Fault) -> None:
        """From its next start on, the service of this release has a fault; see `fault_began`."""
        self.container.path(_FAULT_TIMES).unlink(missing_ok=True)
        self.container.path("/etc/pi0-fault").write_text(f"{sequence} {fault}\n")

    def fault_began(self) -> float:
        """When the planted fault happened first, in seconds since this machine was started."""
        return float(self.container.path(_FAULT_TIMES).read_text().split()[0])

    def served(self) -> int:
        """Sequence of the release whose policy server is ready at this moment; 0 where none is."""
        shown = self.container.run(f"systemctl show {POLICY} -p ActiveState,MainPID", check=False).stdout
        if "ActiveState=active" not in shown:
            return 0
        pid = next(line for line in shown.splitlines() if line.startswith("MainPID=")).split("=")[1]
        command = self.container.run(f"tr '\\0' ' ' < /proc/{pid}/cmdline", check=False).stdout
        return int(command.partition("/releases/")[2].partition("-")[0] or 0)

    def await_served(self, sequence: int, limit_s: float = 120.0) -> float:
        """Waits until this release is served; returns the seconds that took."""
        return self.await_that(lambda: self.served() == sequence, f"serves release {sequence}", limit_s)

    def await_that(self, holds: Callable[[], bool], what: str, limit_s: float = 120.0, every_s: float = 0.05) -> float:
        """Waits until a condition holds, and looks again after `every_s`; returns the seconds that took."""
        begun = time.monotonic()
        while not holds():
            if time.monotonic() - begun > limit_s:
                log = self.container.run("journalctl -n 40 --no-pager -o cat", check=False).stdout
                raise AssertionError(f"not within {limit_s:.0f} s: {what}\n{log}")
            time.sleep(every_s)
        return time.monotonic() - begun


def small_bundle(folder: Path, seed: int = 0) -> Path:
    """A bundle with a passed gate and a self-test, as `quantize` makes it; each seed has other weights."""
    from pi0_edge.ptq.pipeline import quantize
    from pi0_edge.ptq.verdict import Thresholds

    checkpoint = write_checkpoint(folder / "checkpoint", seed=seed)
    frames = write_npz(folder / "robot.npz", 40, prompt="Transfer cube")
    thresholds = Thresholds(executed=4)
    made = quantize(checkpoint, "int8-w8a8", frames, thresholds=thresholds, calibration_frames=16, held_out=10)
    assert made.passed, made.verdict.reasons
    made.write_bundle(folder / "bundle")
    return folder / "bundle"
