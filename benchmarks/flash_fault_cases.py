"""The faults of `flash_faults`: each lets one happen on a robot that was reset, and checks what follows."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.flash_fault_robot import (
    BEFORE,
    CURRENT,
    LIMIT_S,
    NEXT,
    OTHER,
    POLICY,
    Client,
    FaultRobot,
    Link,
    Planted,
    require,
)
from pi0_edge.deploy.release import release_folder
from pi0_edge.errors import DeployError

TRIAL_END_S = 8
"""Of the timer that ends a trial whose installer is gone; 600 s on a robot."""
SETTLES_S = 2.0
"""Whoever comes late, such as a second fallback, would have changed something by then."""
_IN_THE_WEIGHTS = 100_000, 180_000  # of the 195,000 bytes and more that go to the robot


@dataclass(frozen=True)
class Outcome:
    """What one sample found.

    Attributes:
        sequence: Of the release that runs afterwards; 0 where none does.
        seconds: From the fault until it answers again; None where it never does.
        gap_s: Longest time between two answers to a client; None where none was asking.
    """

    sequence: int
    seconds: float | None
    gap_s: float | None = None


@dataclass(frozen=True)
class Case:
    """A fault.

    Attributes:
        name: For --only.
        fault: In words.
        runs: What the robot runs afterwards, in words.
        since: What the seconds count from.
        sample: Lets it happen once, on a robot that was reset.
        asked: Whether a client asks for chunks meanwhile, as the robot's loop would.
    """

    name: str
    fault: str
    runs: str
    since: str
    sample: Callable[[FaultRobot, Client | None], Outcome]
    asked: bool = False


def on_trial(fault: Planted) -> Callable[[FaultRobot, Client | None], Outcome]:
    """The service of a release on trial has a fault: systemd and the fallback take it back, without the installer."""

    def sample(robot: FaultRobot, client: Client | None) -> Outcome:
        robot.plant(NEXT, fault)
        begun = robot.begin_trial()
        ready_at = robot.await_ready(CURRENT, begun)
        robot.require_state(CURRENT, bad=NEXT)
        return Outcome(CURRENT, ready_at - robot.fault_began())

    return sample


def flashed(fault: Planted) -> Callable[[FaultRobot, Client | None], Outcome]:
    """As `on_trial`, with the installer of a real flash: it and the fallback take the release back, once."""

    def sample(robot: FaultRobot, client: Client | None) -> Outcome:
        robot.plant(NEXT, fault)
        refused(robot, robot.bundles[NEXT], "was taken back")
        ready_at = robot.await_ready(CURRENT, robot.fault_began())
        time.sleep(SETTLES_S)
        robot.require_state(CURRENT, bad=NEXT)
        require(robot.service().ready_at == ready_at, "the policy server was started again")
        return Outcome(CURRENT, ready_at - robot.fault_began())

    return sample


def committed(fault: Planted) -> Callable[[FaultRobot, Client | None], Outcome]:
    """The service of the committed release has a fault for good."""

    def sample(robot: FaultRobot, client: Client | None) -> Outcome:
        robot.plant(CURRENT, fault)
        begun = time.monotonic()
        if fault == "late":
            robot.container.run(f"systemctl restart --no-block {POLICY}")
        else:
            signal = "STOP" if fault == "hang" else "KILL"
            robot.container.run(f"systemctl kill --kill-whom=main -s {signal} {POLICY}")
        ready_at = robot.await_ready(BEFORE, begun)
        robot.require_state(BEFORE, bad=CURRENT)
        return Outcome(BEFORE, ready_at - begun)

    return sample


def both_bad(robot: FaultRobot, client: Client | None) -> Outcome:
    """The release before is bad as well: nothing alternates, nothing is served."""
    committed("crash")(robot, client)
    robot.plant(BEFORE, "crash")
    robot.container.run(f"systemctl kill --kill-whom=main -s KILL {POLICY}")
    robot.await_that(lambda: robot.events()[-1] == "stays down", "it stays down", LIMIT_S, 0.2)
    entries = len(robot.events())
    time.sleep(SETTLES_S)
    service = robot.service()
    require(service.state == "failed", f"the service is {service.state}, expected failed")
    require(len(robot.events()) == entries, f"the journal goes on: {robot.events()[entries:]}")
    robot.require_state(BEFORE, bad=CURRENT)
    return Outcome(0, None)


def rolled_back(robot: FaultRobot, client: Client | None) -> Outcome:
    """A person types `pi0-edge flash rollback`."""
    begun = time.monotonic()
    robot.host.rollback("measured")
    ready_at = robot.await_ready(BEFORE, begun)
    robot.require_state(BEFORE, bad=CURRENT)
    return Outcome(BEFORE, ready_at - begun)


def cut_and_started(robot: FaultRobot, sequence: int) -> Outcome:
    """Cuts the power, brings it back, and waits for a release."""
    robot.container.cut()
    on = robot.power_on()
    ready_at = robot.await_ready(sequence, on)
    robot.require_state(sequence)
    return Outcome(sequence, ready_at - on)


def cut_in_receiving(robot: FaultRobot, client: Client | None) -> Outcome:
    """The power goes while weights arrive."""
    robot.container.set_links(Link(cut_after=random.randint(*_IN_THE_WEIGHTS), stall=True))
    staging = robot.container.path("/var/lib/pi0-edge/staging")
    with in_a_thread(lambda: robot.host.flash(robot.bundles[OTHER], deadline_s=0.0)):
        robot.await_that(lambda: any(staging.glob("[0-9a-f]*/bundle/*weights*")), "weights arrive", LIMIT_S)
        time.sleep(random.uniform(0.0, 0.5))
        robot.container.cut()
    require(not robot.events(), f"it had gone on: {robot.events()}")
    return cut_and_started(robot, CURRENT)


def cut_when_installed(robot: FaultRobot, client: Client | None) -> Outcome:
    """The power goes when a release is installed and nothing of it has run: on the disk, release 3 is in this state."""
    return cut_and_started(robot, CURRENT)


def cut_in_self_test(robot: FaultRobot, client: Client | None) -> Outcome:
    """The power goes in the self-test."""
    with in_a_thread(lambda: robot.host.flash(robot.bundles[NEXT], deadline_s=0.0)):
        await_self_test(robot)
        time.sleep(random.uniform(0.0, 1.0))
        robot.container.cut()
    return cut_and_started(robot, CURRENT)


def cut_on_trial(robot: FaultRobot, client: Client | None) -> Outcome:
    """The power goes when the release on trial is served."""
    robot.await_ready(NEXT, robot.begin_trial())
    return cut_and_started(robot, CURRENT)


def cut_when_committed(robot: FaultRobot, client: Client | None) -> Outcome:
    """The power goes in the moment in which slots.json is replaced."""
    robot.await_ready(NEXT, robot.begin_trial())
    slots = robot.container.path("/var/lib/pi0-edge/slots.json")
    number = slots.stat().st_ino
    robot.prove_trial()
    with in_a_thread(robot.host.commit) as ended:
        while slots.stat().st_ino == number:
            require(not ended(), "the commit ended, and slots.json is what it was")
            time.sleep(0.001)
        robot.container.cut()
    return cut_and_started(robot, NEXT)


def uninterrupted(robot: FaultRobot, client: Client | None, fault: Callable[[], object]) -> Outcome:
    """Lets a fault happen that must not touch what runs: the same process answers, before, meanwhile and after."""
    before, begun = robot.service(), time.monotonic()
    fault()
    after = robot.service()
    require(after.sequence == CURRENT, f"release {after.sequence} is served, expected {CURRENT}")
    require((after.pid, after.ready_at) == (before.pid, before.ready_at), "the policy server was started again")
    require(client is not None, "no client was asking")
    assert client is not None
    return Outcome(CURRENT, 0.0, client.longest_gap(begun))


def refused(robot: FaultRobot, bundle: Path, reason: str) -> None:
    """Flashes what the robot must refuse."""
    try:
        robot.host.flash(bundle, deadline_s=0.0)
    except DeployError as error:
        require(re.search(reason, str(error)) is not None, f"refused with {error}, expected {reason}")
        return
    require(False, "the robot took it, expected a refusal")


def link_cut(robot: FaultRobot, client: Client | None) -> Outcome:
    """The link ends at a random byte of the transfer; the same command again brings the release onto the robot."""
    bundle = robot.bundles[OTHER]
    last = sum(file.stat().st_size for file in bundle.glob("weights-*"))  # and some more is sent
    robot.container.set_links(Link(cut_after=random.randint(1, last)), Link())
    outcome = uninterrupted(robot, client, lambda: refused(robot, bundle, "link|connection|reached|closed|ended"))
    robot.require_state(CURRENT)
    robot.host.flash(bundle)
    require(robot.service().sequence == OTHER, "flashed again, and it does not serve the new release")
    robot.require_state(OTHER)
    return outcome


def workstation_killed(robot: FaultRobot, client: Client | None) -> Outcome:
    """The workstation dies in the self-test: the robot goes on alone."""
    config = robot.container.ssh_config_for("pi0-flash", robot.workstation.key)
    argv = [sys.executable, "-m", "pi0_edge.cli", "flash", "robot", str(robot.bundles[NEXT])]
    argv += ["--ssh-config", str(config), "--key", str(robot.workstation.key), "--json"]
    begun = time.monotonic()
    flashing = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    await_self_test(robot)
    flashing.kill()
    flashing.wait()
    ready_at = robot.await_ready(NEXT, begun)
    robot.await_that(lambda: robot.current == NEXT, "it is committed", LIMIT_S, 0.2)
    service = robot.service()
    require(service.sequence == NEXT and service.ready_at == ready_at, "the policy server was started again")
    robot.require_state(NEXT)
    return Outcome(NEXT, ready_at - service.left_at)


def installer_killed_in_self_test(robot: FaultRobot, client: Client | None) -> Outcome:
    """The installer is killed, with all that it started."""

    def fault() -> None:
        with in_a_thread(lambda: robot.host.flash(robot.bundles[NEXT], deadline_s=0.0)):
            await_self_test(robot)
            time.sleep(random.uniform(0.0, 1.0))
            robot.kill_installer()

    outcome = uninterrupted(robot, client, fault)
    robot.require_state(CURRENT)
    return outcome


def installer_killed_on_trial(robot: FaultRobot, client: Client | None) -> Outcome:
    """The installer is killed in the trial; the timer ends it."""
    timer = f"[Timer]\nOnActiveSec=\nOnActiveSec={TRIAL_END_S}\nAccuracySec=100ms\n"
    folder = "/etc/systemd/system/pi0-edge-trial-end.timer.d"
    robot.container.run(f"mkdir -p {folder} && cat > {folder}/soon.conf && systemctl daemon-reload", stdin=timer)
    trial = robot.container.path("/run/pi0-edge/trial.json")
    with in_a_thread(lambda: robot.host.flash(robot.bundles[NEXT], deadline_s=0.0)):
        robot.await_that(trial.exists, "the trial began", LIMIT_S)
        time.sleep(random.uniform(0.2, 1.0))
        killed = time.monotonic()
        robot.kill_installer()
    try:
        ready_at = robot.await_ready(CURRENT, killed)
    finally:
        robot.container.run(f"rm -r {folder} && systemctl daemon-reload")
    robot.require_state(CURRENT)
    return Outcome(CURRENT, ready_at - killed)


FREE_KB = 160
"""Room for what is said about a release, and not for the release."""


def full_disk(robot: FaultRobot, client: Client | None) -> Outcome:
    """The disk of the releases has no room for another one."""
    state, moved = "/var/lib/pi0-edge", "/var/lib/pi0-edge-moved"
    robot.container.run(
        f"rm -rf {moved} && cp -a {state} {moved} && used=$(du -sk {moved} | cut -f1) && "
        f"mount -t tmpfs -o size=$((used + {FREE_KB}))k tmpfs {state} && cp -a {moved}/. {state}"
    )
    try:
        outcome = uninterrupted(robot, client, lambda: refused(robot, robot.bundles[OTHER], "no room"))
        robot.require_state(CURRENT)
    finally:
        robot.container.run(f"umount -l {state}; rm -rf {moved}")
    return outcome


def altered_byte(robot: FaultRobot, client: Client | None) -> Outcome:
    """One bit of what is sent is not what was signed."""
    good = robot.bundles[OTHER]
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / good.name
        shutil.copytree(good, bundle)
        shutil.copytree(release_folder(good), release_folder(bundle))
        file = random.choice(sorted(path for path in bundle.glob("*.safetensors")))
        content = bytearray(file.read_bytes())
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        file.write_bytes(content)
        outcome = uninterrupted(robot, client, lambda: refused(robot, bundle, "not what was signed"))
    robot.require_state(CURRENT)
    return outcome


def replayed(robot: FaultRobot, client: Client | None) -> Outcome:
    """Somebody flashes an older release with all its signatures."""
    outcome = uninterrupted(robot, client, lambda: refused(robot, robot.bundles[BEFORE], "older|at least|lower"))
    robot.require_state(CURRENT)
    return outcome


def await_self_test(robot: FaultRobot) -> None:
    """Waits until the installer runs the self-test."""
    looks = "pgrep -f ' [s]elf-test '"
    robot.await_that(lambda: robot.container.run(looks, check=False).returncode == 0, "it tests", LIMIT_S, 0.2)


@contextlib.contextmanager
def in_a_thread(work: Callable[[], object]) -> Iterator[Callable[[], bool]]:
    """Does something that is cut off, and yields what tells whether it has ended; the context ends when it has."""

    def run() -> None:
        with contextlib.suppress(DeployError):
            work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield lambda: not thread.is_alive()
    finally:
        thread.join()


OLD, NEW, EARLIER = "what ran before", "the new release", "the release before, and the bad one is listed"
STARTED, KILLED, POWER = "the start of the faulty service", "the fault", "power on"

CASES = (
    Case("trial-crash", "on trial, installer gone: the service ends at once", OLD, STARTED, on_trial("crash")),
    Case(
        "trial-crash-later",
        "on trial, installer gone: crashes whenever it serves",
        OLD,
        KILLED,
        on_trial("crash later"),
    ),
    Case("trial-hang", "on trial, installer gone: hangs whenever it serves", OLD, KILLED, on_trial("hang")),
    Case(
        "trial-late",
        "on trial, installer gone: chunks later than the budget",
        OLD,
        STARTED,
        on_trial("late"),
        asked=True,
    ),
    Case("flash-crash", "on trial: the service ends at once", OLD, STARTED, flashed("crash")),
    Case("flash-hang", "on trial: hangs once it serves", OLD, KILLED, flashed("hang")),
    Case("flash-late", "on trial: chunks later than the budget", OLD, STARTED, flashed("late")),
    Case("crash", "committed: crashes, and cannot be started again", EARLIER, KILLED, committed("crash")),
    Case("crash-later", "committed: crashes whenever it serves", EARLIER, KILLED, committed("crash later")),
    Case("hang", "committed: hangs whenever it serves", EARLIER, KILLED, committed("hang")),
    Case("late", "committed: chunks later than the budget", EARLIER, STARTED, committed("late"), asked=True),
    Case("both-bad", "committed and the one before: end at once", "nothing; the firmware holds the arm", "–", both_bad),
    Case("rollback", "a person takes it back", "the release before", "the command", rolled_back),
    Case("cut-receiving", "power cut while it receives", OLD, POWER, cut_in_receiving),
    Case("cut-installed", "power cut when it is installed", OLD, POWER, cut_when_installed),
    Case("cut-testing", "power cut in the self-test", OLD, POWER, cut_in_self_test),
    Case("cut-trial", "power cut on trial", OLD, POWER, cut_on_trial),
    Case("cut-committed", "power cut as it is committed", NEW, POWER, cut_when_committed),
    Case("link", "link cut at a random byte", f"{OLD}; flashed again, the new one", "–", link_cut, asked=True),
    Case("workstation", "workstation killed in the installation", NEW, "the end of the old one", workstation_killed),
    Case("installer-test", "installer killed in the self-test", OLD, "–", installer_killed_in_self_test, asked=True),
    Case("installer-trial", "installer killed on trial", OLD, KILLED, installer_killed_on_trial),
    Case("full-disk", "full disk", OLD, "–", full_disk, asked=True),
    Case("altered", "one bit altered on the way", OLD, "–", altered_byte, asked=True),
    Case("replay", "an older release, rightly signed", OLD, "–", replayed, asked=True),
)
