"""The policy server under real systemd, with the launcher: what crashes, hangs or is late is taken back."""

from __future__ import annotations

from pathlib import Path

import pytest
from robot_services import POLICY, RobotServices

from pi0_edge.deploy.launcher.slots import Slot

pytestmark = [pytest.mark.real_time, pytest.mark.system]

READY_S = 60.0


@pytest.fixture
def good(services: RobotServices, bundles: list[Path]) -> Slot:
    return services.release("good", 1, bundles[0])


def test_it_is_active_when_it_answers(services: RobotServices, good: Slot):
    services.commit(good, None)
    services.start()
    state = services.state()
    assert (state.active, state.status) == ("active", "policy on 127.0.0.1:50051"), services.journal()
    asked = services.ask(3)
    assert asked.stdout == "3\n", asked.stderr + services.journal()
    shown = services.robot.run(f"systemctl show {POLICY} --property=WatchdogUSec,NotifyAccess,User").stdout
    assert set(shown.split()) == {"WatchdogUSec=4s", "NotifyAccess=main", "User=pi0-edge"}


@pytest.mark.slow
def test_a_start_that_takes_longer_than_its_limit_gets_more_time(services: RobotServices, bundles: list[Path]):
    services.drop_in(POLICY, "[Service]\nTimeoutStartSec=8\n", "hurry")
    services.robot.run("systemctl daemon-reload")
    try:
        services.commit(services.release("starts-slowly", 1, bundles[0]), None)
        services.start()
        state = services.state()
        assert (state.active, state.restarts) == ("active", 0), services.journal()
    finally:
        services.drop_in(POLICY, "", "hurry")
        services.robot.run("systemctl daemon-reload")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param("slow", "its chunks came later than its budget", marks=pytest.mark.slow),
        ("exits", "it ended with exit code 1"),
        pytest.param("crashes", "it crashed (signal 6)", marks=pytest.mark.slow),
        pytest.param("hangs", "it gave no sign of life in the time of its watchdog", marks=pytest.mark.slow),
    ],
)
def test_a_faulty_policy_is_taken_back_by_systemd_alone(
    services: RobotServices, good: Slot, bundles: list[Path], fault: str, reason: str
):
    bad = services.release(fault, 2, bundles[1])
    services.commit(bad, good)
    services.write_settings(budget_ms=500.0 if fault == "slow" else None)
    client = services.ask_for_ever()
    try:
        services.start(block=False)
        took = services.wait_until(
            "the release before", 120, lambda: services.slots()["current"]["release"] == good.release
        )
        services.wait_until("ready again", READY_S, lambda: services.state().active == "active")
    finally:
        client.kill()
        services.write_settings()
    asked = services.ask(2)
    assert asked.stdout == "2\n", asked.stderr + services.journal()[-5000:]
    slots = services.slots()
    assert slots["previous"] is None
    assert [(one["release"], one["reason"]) for one in slots["bad"]] == [(bad.release, reason)]
    print(f"{fault}: taken back {took:.1f} s after its first start")


def test_a_policy_server_that_is_taken_over_can_do_little(services: RobotServices, good: Slot):
    """A program in its place: what systemd lets it do."""
    probe = services.robot.path("/opt/pi0-edge/sdk/probe/bin/python")
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.write_text(f"""#!/bin/sh
tried() {{ "$@" >/dev/null 2>&1 && echo "could: $*" || echo "could not: $*"; }}
tried touch /var/lib/pi0-edge/slots.json.new
tried touch /opt/pi0-edge/sdk/good/bin/python
tried ls /root/.ssh
tried cat /dev/kmsg
tried mknod /var/cache/pi0-edge/device c 1 1
tried unshare -r true
tried touch /var/cache/pi0-edge/kernels
tried cat {good.environment}/bin/python
exit 7
""")
    probe.chmod(0o755)
    services.commit(Slot(good.release, 1, "/opt/pi0-edge/sdk/probe"), None)
    services.start()
    said = services.journal()
    could = [line.split()[1:] for line in said.splitlines() if line.startswith("could: ")]
    assert could == [["touch", "/var/cache/pi0-edge/kernels"], ["cat", f"{good.environment}/bin/python"]], said[-2000:]
    assert said.count("could not: ") == 6
