"""The whole story on a machine that boots: aarch64, its own kernel, wheels of a board, the shipped policy.

The tests are one story, in this order: each begins with what the one before it left. It takes an hour and more: the
machine is emulated, and a chunk takes it ten seconds. What took how long is left in build/aarch64/measured.json, from
which benchmarks/results/flash_aarch64.md was written.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from aarch64_machine import FOLDER, Aarch64Machine, copy_disk, make_stick, why_no_machine
from aarch64_robot import (
    STICK,
    Aarch64Robot,
    Stopwatch,
    board_sdk,
    shipped_bundle,
)
from flashed_robot import Workstation, small_bundle

from pi0_edge.deploy.installer.environments import environment_path
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.release import release_folder
from pi0_edge.deploy.sdk.lock import REQUIREMENTS
from pi0_edge.errors import DeployError

pytestmark = [pytest.mark.real_time, pytest.mark.slow]


@pytest.fixture(scope="module")
def workstation(tmp_path_factory: pytest.TempPathFactory) -> Workstation:
    if (reason := why_no_machine()) is not None:
        pytest.skip(reason)
    return Workstation(tmp_path_factory.mktemp("workstation"), shipped_bundle())


@pytest.fixture(scope="module")
def robot(workstation: Workstation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aarch64Robot]:
    """A machine that was provisioned from a stick without a network; the stick has the first release, too."""
    stick = tmp_path_factory.mktemp("stick")
    shutil.copytree(board_sdk(), stick / "sdk")
    bundle = workstation.release()
    for part in (bundle, release_folder(bundle)):
        shutil.copytree(part, stick / "release" / part.name)
    installed = FOLDER / f"{environment_path(Layout(), stick / 'sdk' / REQUIREMENTS).name}.img"
    machine = Aarch64Machine("story", installed if installed.exists() else None)
    made = Aarch64Robot(machine, workstation, Stopwatch(FOLDER / "measured.json"))
    made.watch.note("boot, until ssh answers", machine.start(make_stick(stick, FOLDER / "stick.img")))
    made.mount_stick()
    made.install_sdk()
    if not installed.exists():
        keep(machine, installed)
        made.mount_stick()
    made.provision()
    yield made
    machine.drop()


def test_a_stick_flashes_the_first_release_without_a_network(robot: Aarch64Robot) -> None:
    environment = robot.environment
    with robot.watch.measure("flash from the stick, until committed"):
        said = robot.machine.run(f"cd / && {environment}/bin/pi0-edge flash --from {STICK}/release").stdout
    assert "is committed" in said
    assert "self-test, accuracy" in said
    assert robot.current == robot.served() == 1
    assert robot.host.status()["current"]["gate"] == "passed"


def test_the_shipped_policy_answers_as_fp32_did_on_the_workstation(robot: Aarch64Robot) -> None:
    seconds, cosine = robot.ask_a_chunk(robot.slots()["current"]["release"])
    robot.watch.note("one chunk of the shipped policy", seconds)
    assert cosine > 0.995


def test_a_release_that_crashes_is_taken_back(robot: Aarch64Robot, workstation: Workstation) -> None:
    bundle = workstation.release()
    before = robot.current
    robot.plant(workstation.sequence, "crash")
    with robot.watch.measure("flash of a release that crashes, until it is refused"):  # noqa: SIM117
        with pytest.raises(DeployError, match=r"again and again|before it was ready|exit code"):
            robot.host.flash(bundle)
    robot.watch.note("after that, until the release before answers", robot.await_served(before))
    assert robot.current == before
    assert [bad["release"].partition("-")[0] for bad in robot.slots()["bad"]] == [str(workstation.sequence)]
    robot.machine.run("rm /etc/pi0-fault")


def test_a_power_cut_while_it_receives(robot: Aarch64Robot, workstation: Workstation, tmp_path: Path) -> None:
    """The release is of another network: files that the robot has are linked and not received."""
    before = robot.current
    other = workstation.release(made=small_bundle(tmp_path / "other"))
    robot.flash_until(other, robot.receives, "it receives", bwlimit_kbps=8)
    runs_as_before(robot, before, "receiving")


@pytest.fixture(scope="module")
def cut_release(workstation: Workstation) -> Path:
    """A good one, whose flash is cut in one state after the other, and begun again each time."""
    return workstation.release()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("installed", "installed: every byte"),
        ("testing", "nothing has to be written"),
        ("trial", "trial: the service starts"),
    ],
)
def test_a_power_cut_before_the_commit(robot: Aarch64Robot, cut_release: Path, state: str, words: str) -> None:
    before = robot.current
    robot.flash_until(cut_release, robot.told(words), state)
    runs_as_before(robot, before, state)


def test_a_power_cut_at_the_commit(robot: Aarch64Robot, workstation: Workstation, cut_release: Path) -> None:
    robot.flash_until(cut_release, robot.told("committed:"), "committed")
    runs_as_before(robot, workstation.sequence, "committed")
    robot.host.flash(cut_release)
    assert any("nothing to" in reason for reason in robot.reasons)


def keep(machine: Aarch64Machine, disk: Path) -> None:
    """Keeps a copy of the disk with the SDK on it, for the next run of the same SDK."""
    machine.stop()
    for older in disk.parent.glob("*.img"):
        if older.name not in (disk.name, "stick.img"):
            older.unlink()
    copy_disk(machine.disk, disk)
    machine.start(FOLDER / "stick.img")


def runs_as_before(robot: Aarch64Robot, sequence: int, state: str) -> None:
    """After the boot: what is committed answers, all that is installed is whole, and nothing is on trial."""
    assert robot.current == sequence
    robot.watch.note(f"cut in state {state}: from ssh until the policy answers", robot.await_served(sequence))
    assert robot.host.status()["trial"] is None
    assert any(release.startswith(f"{sequence}-") for release in robot.whole_releases())
