"""The socket of the installer and the timer of a trial, under real systemd."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from robot_services import RobotServices

pytestmark = [pytest.mark.real_time, pytest.mark.system]

SOCKET = "/run/pi0-edge/installer.sock"
ASK = f"""import json, socket
peer = socket.socket(socket.AF_UNIX); peer.connect("{SOCKET}")
peer.sendall(b'{{"verb":"status"}}\\n'); peer.shutdown(socket.SHUT_WR)
print(peer.makefile().readline())"""


def ask_as(services: RobotServices, user: str) -> str:
    ran = services.robot.run(f"setpriv --reuid={user} --regid={user} --clear-groups python3 -", check=False, stdin=ASK)
    return ran.stdout or ran.stderr


def test_the_installer_answers_its_account_and_nobody_else(services: RobotServices):
    answer = json.loads(ask_as(services, "pi0-flash"))
    assert answer["result"]["name"] == "robot-1", answer
    assert answer["result"]["current"] is None
    assert "Permission denied" in ask_as(services, "pi0-edge")
    for _ in range(50):
        if "pi0-edge-installer@" not in services.robot.run("systemctl list-units --all --plain").stdout:
            return
        time.sleep(0.1)
    raise AssertionError("an installer whose connection ended is still there")


def test_a_trial_that_nobody_decides_ends_and_the_next_one_too(services: RobotServices, bundles: list[Path]):
    good, other = services.release("good", 1, bundles[0]), services.release("good", 2, bundles[1])
    services.drop_in("pi0-edge-trial-end.timer", "[Timer]\nOnActiveSec=\nOnActiveSec=1\n")
    services.robot.run("systemctl daemon-reload")
    services.commit(good, None)
    for _ in range(2):
        services.layout.trial.write_text(json.dumps(asdict(other)))
        services.robot.run("systemctl start pi0-edge-trial-end.timer")
        services.wait_until("end of the trial", 15, lambda: not services.layout.trial.exists())
        unit = "pi0-edge-trial-end.service"
        services.wait_until("end of its service", 15, lambda unit=unit: services.state(unit).active == "inactive")
    assert services.slots()["bad"] == []
    assert services.state("pi0-edge-trial-end.service").result == "success"


def test_a_trial_that_is_decided_in_time_does_not_end(services: RobotServices, bundles: list[Path]):
    services.layout.trial.write_text(json.dumps(asdict(services.release("good", 2, bundles[1]))))
    services.robot.run("systemctl start pi0-edge-trial-end.timer && systemctl stop pi0-edge-trial-end.timer")
    time.sleep(2.5)
    assert services.layout.trial.exists()
    services.layout.trial.unlink()
