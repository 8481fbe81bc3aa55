"""The policy server under real systemd, with the launcher: what crashes, hangs or is late is taken back."""

from __future__ import annotations

from pathlib import Path

import pytest
from robot_services import POLICY, RobotServices

from pi0_edge.deploy.launcher.slots import Slot

pytestmark = pytest.mark.real_time

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
    assert set(shown.split()) == {"WatchdogUSec=2s", "NotifyAccess=main", "User=pi0-edge"}


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
    ("fault", "reason", "restarts"),
    [
        ("slow", "its chunks came later than its budget", 0),
        ("exits", "it ended with exit code 1", 3),
        pytest.param("crashes", "it crashed", 3, marks=pytest.mark.slow),
        pytest.param("hangs", "it gave no sign of life in the time of its watchdog", 3, marks=pytest.mark.slow),
    ],
)
def test_a_faulty_policy_is_taken_back_by_systemd_alone(
    services: RobotServices, good: Slot, bundles: list[Path], fault: str, reason: str, restarts: int
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
    assert services.ask(2).stdout == "2\n"
    slots = services.slots()
    assert slots["previous"] is None
    assert [(one["release"], one["reason"]) for one in slots["bad"]] == [(bad.release, reason)]
    starts = services.journal().count(f"serve --bundle /var/lib/pi0-edge/releases/{bad.release}")
    print(f"{fault}: taken back after {took:.1f} s, {starts}")
