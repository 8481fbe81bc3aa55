"""Whatever happens to a robot, it runs a good release, and says why.

Real systemd, sshd, rsync, installer and policy server, in a container; only the policy is small.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bad_link import Link
from flashed_robot import FlashedRobot, Workstation, small_bundle
from robot_container import RobotContainer, bound_environment

from pi0_edge.errors import DeployError

pytestmark = [pytest.mark.real_time, pytest.mark.system]


@pytest.fixture(scope="module")
def workstation(tmp_path_factory: pytest.TempPathFactory) -> Workstation:
    return Workstation(tmp_path_factory.mktemp("workstation"))


@pytest.fixture(scope="module")
def robot(make_robot: Callable[..., RobotContainer], workstation: Workstation) -> Iterator[FlashedRobot]:
    """One that runs the first release; every test leaves it with a good one."""
    container = make_robot("story", *bound_environment())
    flashed = FlashedRobot(container, workstation)
    flashed.host.flash(workstation.release())
    yield flashed
    container.drop()


@pytest.fixture
def before(robot: FlashedRobot) -> int:
    """The sequence that runs when a test begins."""
    robot.container.path("/etc/pi0-fault").unlink(missing_ok=True)
    robot.reasons.clear()
    robot.container.set_links(Link())
    robot.await_served(robot.current)
    return robot.current


def test_a_release_is_tested_tried_and_committed_and_again_changes_nothing(
    robot: FlashedRobot, workstation: Workstation, before: int
) -> None:
    bundle = workstation.release()
    robot.host.flash(bundle)
    said = "\n".join(robot.reasons)
    assert robot.current == robot.served() == before + 1
    for words in ("room:", "signed:", "files linked from other releases", "doctor:", "self-test, accuracy", "trial:"):
        assert words in said, words
    assert f"{len(list(bundle.iterdir())) - 2} files linked" in said, "the same files are not sent again"
    robot.reasons.clear()
    journal = robot.journal()
    robot.host.flash(bundle)
    assert any("nothing to send" in reason for reason in robot.reasons)
    assert robot.journal() == journal
    assert robot.host.status()["current"]["gate"] == "passed"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("crash", "again and again|before it was ready|exit code"),
        pytest.param("hang", "sign of life|again and again|was not made", marks=pytest.mark.slow),
        pytest.param("late", "later than its budget|was not made", marks=pytest.mark.slow),
    ],
)
def test_a_release_whose_service_fails_on_trial_is_taken_back(
    robot: FlashedRobot, workstation: Workstation, before: int, fault: str, reason: str
) -> None:
    bundle = workstation.release()
    robot.plant(workstation.sequence, fault)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DeployError, match=reason):
        robot.host.flash(bundle)
    robot.await_served(before)
    assert robot.current == before
    assert robot.slots.is_bad(f"{workstation.sequence}-" + robot.slots.bad[-1].release.split("-")[1])
    with pytest.raises(DeployError, match="taken back"):
        robot.host.flash(bundle)


@pytest.mark.slow
def test_a_committed_release_that_fails_falls_back_once_and_never_alternates(
    robot: FlashedRobot, workstation: Workstation, before: int
) -> None:
    robot.host.flash(workstation.release())
    robot.plant(workstation.sequence, "crash later")
    robot.container.run("systemctl kill -s KILL pi0-edge-policy")
    robot.await_served(before)
    assert robot.current == before
    assert robot.slots.previous is None
    robot.plant(before, "crash")
    robot.container.run("systemctl kill -s KILL pi0-edge-policy")
    robot.await_that(lambda: robot.journal()[-1] == "stays down", "it stays down")
    assert robot.current == before
    robot.container.path("/etc/pi0-fault").unlink()
    robot.host.flash(workstation.release())  # a person brings it back with a good one
    assert robot.served() == workstation.sequence


@pytest.mark.slow
def test_a_power_cut_on_trial_boots_what_is_committed(
    robot: FlashedRobot, workstation: Workstation, before: int
) -> None:
    robot.host.flash(workstation.release(), commit=False)
    assert robot.served() == workstation.sequence
    assert robot.current == before
    robot.container.cut()
    robot.container.start()
    robot.connect()
    robot.await_served(before)
    assert robot.host.status()["trial"] is None


@pytest.mark.slow
def test_a_trial_is_committed_by_hand_and_rolled_back_by_hand(
    robot: FlashedRobot, workstation: Workstation, before: int
) -> None:
    robot.host.flash(workstation.release(), commit=False)
    robot.host.commit()
    assert robot.current == before + 1 or robot.current == workstation.sequence
    robot.host.rollback("the gripper is too fast")
    robot.await_served(before)
    robot.reasons.clear()
    robot.host.rollback()
    assert robot.current == before, "a second rollback goes no further"
    assert any("nothing to do" in reason for reason in robot.reasons)
    assert any("the gripper is too fast" in entry["reason"] for entry in robot.host.history())
    removed = robot.host.gc()["removed"]
    assert robot.slots.current is not None
    assert robot.slots.current.release not in removed
    robot.host.flash(workstation.release())


@pytest.mark.slow
def test_the_robot_goes_on_alone_where_the_link_is_lost_in_the_installation(
    robot: FlashedRobot, workstation: Workstation, before: int
) -> None:
    bundle = workstation.release()
    argv = [
        *("pi0-edge", "flash", "robot", str(bundle), "--ssh-config"),
        *(str(robot.container.ssh_config_for("pi0-flash", workstation.key)), "--key", str(workstation.key), "--json"),
    ]
    flashing = subprocess.Popen(
        [sys.executable, "-m", "pi0_edge.cli", *argv[1:]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    robot.await_that(lambda: robot.journal()[-1] == "installed", "it is installed")
    flashing.kill()
    flashing.communicate()
    robot.await_served(workstation.sequence)
    robot.await_that(lambda: robot.current == workstation.sequence, "it is committed")


@pytest.mark.slow
def test_two_who_flash_at_once_wait_for_each_other(robot: FlashedRobot, workstation: Workstation, before: int) -> None:
    bundles = [workstation.release(), workstation.release()]
    failures: list[str] = []

    def flash(bundle: Path) -> None:
        try:
            robot.host.flash(bundle)
        except DeployError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=flash, args=(bundle,)) for bundle in bundles]
    for thread in threads:
        thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    assert all("older" in failure or "at least" in failure for failure in failures), failures
    assert robot.current == robot.served() == workstation.sequence


@pytest.mark.slow
def test_a_full_disk_refuses_before_anything_is_sent(
    robot: FlashedRobot, workstation: Workstation, before: int, tmp_path: Path
) -> None:
    bundle = workstation.release(made=small_bundle(tmp_path, seed=1))  # one that shares no file with the others
    robot.container.run("mkdir -p /srv/moved && cp -a /var/lib/pi0-edge/. /srv/moved")
    robot.container.run("mount -t tmpfs -o size=2m tmpfs /var/lib/pi0-edge && cp -a /srv/moved/. /var/lib/pi0-edge")
    robot.container.run("head -c 1500000 /dev/zero > /var/lib/pi0-edge/filler || true")
    try:
        with pytest.raises(DeployError, match="no room"):
            robot.host.flash(bundle)
    finally:
        robot.container.run("umount -l /var/lib/pi0-edge")
    assert robot.current == before
    robot.host.flash(bundle)
    assert robot.current == workstation.sequence


@pytest.mark.slow
@pytest.mark.parametrize("year", [1970, 2099])
def test_a_wrong_clock_is_told_and_is_no_hindrance(
    robot: FlashedRobot, workstation: Workstation, before: int, year: int
) -> None:
    """A container has the clock of this machine, so the installer is started with another one."""
    unit = "/etc/systemd/system/pi0-edge-installer@.service.d/clock.conf"
    seconds = {1970: 86400, 2099: 4_080_000_000}[year]
    run = "import runpy; runpy.run_module('pi0_edge.deploy.installer', run_name='__main__')"
    code = f"import time; time.time = lambda: {seconds}.0; {run}"
    environment = "/opt/checkout"
    start = f"[Service]\nExecStart=\nExecStart={environment}/bin/python -c {json.dumps(code)}\n"
    robot.container.run(f"mkdir -p $(dirname {unit}) && cat > {unit} && systemctl daemon-reload", stdin=start)
    try:
        robot.host.flash(workstation.release())
    finally:
        robot.container.run(f"rm {unit}; systemctl daemon-reload")
    assert robot.current == workstation.sequence
    assert any(reason.startswith("time:") and str(year) in reason for reason in robot.reasons)
