"""How a run ends when a process is stopped or killed: exit code of the command, message, and where the arm is."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from notify_socket import NotifySocket
from run_system import RunSystem

from firmware_bridge.client import BridgeClient
from firmware_bridge.robot import ACTIVE_STATES
from pi0_edge.protos.serial_link import Fault, State
from pi0_edge.run.life_cycle import Outcome
from pi0_edge.shipped import shipped_checkpoint

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("gym_aloha") is None, reason="the extra [sim] is not installed"),
]

WAIT_S = 20.0
PROFILE = shipped_checkpoint() / "training_profile.json"
ANSI = re.compile(r"\x1b[\[(][0-9;?]*[A-Za-z]")


class Command:
    """`pi0-edge run` in a process of its own, behind a pipe or a terminal."""

    def __init__(
        self, system: RunSystem, *options: str, terminal: bool = False, environment: Mapping[str, str] = os.environ
    ) -> None:
        argv = [sys.executable, "-m", "pi0_edge.cli", "run", "aloha_sim", "--policy", system.policy.address]
        argv += ["--cameras", str(system.cameras), "--bridge", system.bridge.address]
        argv += ["--training-profile", str(PROFILE), *options]
        self.said = ""
        environment = {**environment, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "45"}
        if terminal:
            self._reading, child = pty.openpty()
            self.process = subprocess.Popen(argv, stdin=child, stdout=child, stderr=child, env=environment)
            os.close(child)
        else:
            self._reading, child = os.pipe()
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=child, stderr=subprocess.STDOUT, env=environment
            )
            os.close(child)

    def wait_for(self, words: str) -> None:
        """Returns once it has said that."""
        deadline = time.monotonic() + WAIT_S
        while words not in self.said:
            assert self._read(deadline), f"no {words!r} in {self.said[-3000:]}"

    def press(self, keys: str) -> None:
        os.write(self._reading, keys.encode())

    def end(self) -> int:
        """The exit code, once it has ended."""
        deadline = time.monotonic() + WAIT_S
        while self._read(deadline):
            pass
        return self.process.wait(WAIT_S)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._reading], [], [], max(0.0, deadline - time.monotonic()))
        try:
            read = os.read(self._reading, 1 << 16) if ready else b""
        except OSError:  # what a terminal says whose other end was closed
            read = b""
        self.said += ANSI.sub("", read.decode(errors="replace"))
        return bool(read)

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._reading)


@contextlib.contextmanager
def playing(system: RunSystem, *options: str) -> Iterator[Command]:
    """A command whose arm moves."""
    with Command(system, "--no-dashboard", *options) as command:
        command.wait_for(": policy: ")
        yield command


def status(system: RunSystem) -> tuple[State, Fault, str]:
    """State and faults of the arm, and who holds it."""
    with BridgeClient(system.bridge.address, "test") as bridge, bridge.telemetry() as ticks:
        tick = next(ticks)
        return tick.state, tick.faults, bridge.status().owner


def wait_until_at_rest(system: RunSystem) -> tuple[State, Fault, str]:
    deadline = time.monotonic() + 3.0
    while (found := status(system))[0] in ACTIVE_STATES and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_disarms_and_ends_with_zero(system: RunSystem, number: signal.Signals):
    with playing(system, "--json") as command:
        command.process.send_signal(number)
        assert command.end() == Outcome.DONE.value
        result = json.loads(command.said.strip().splitlines()[-1])
    assert result["outcome"] == "DONE" and result["reason"] in ("Ctrl-C", "SIGTERM")
    assert status(system) == (State.DISARMED, Fault(0), "")
    assert "Traceback" not in command.said


def test_a_run_tells_systemd_that_it_is_ready_with_its_first_tick_and_alive_with_each(
    system: RunSystem, tmp_path: Path
):
    systemd = NotifySocket(tmp_path / "notify")
    with Command(system, "--no-dashboard", environment=systemd.environment(watchdog_s=0.6)) as command:
        lines = systemd.wait_for("READY=1", 60, lambda: command.process.poll() is None)
        assert "STATUS=pre-flight" in lines
        command.wait_for(": policy: ")
        assert systemd.count("WATCHDOG=1", 2) >= 6
        command.process.send_signal(signal.SIGTERM)
        assert command.end() == Outcome.DONE.value
    said = [line for message in systemd.messages() for line in message]
    assert said[-2:] == ["STOPPING=1", "STATUS=SIGTERM"]
    systemd.close()


def test_escape_on_a_terminal_stops_the_arm_at_once(system: RunSystem):
    with Command(system, "--accept-mismatch", "gate", terminal=True) as command:
        command.wait_for("the ticks are the policy's")
        assert "overridden: accept-mismatch-gate" in command.said and "left_wrist_rotate" in command.said
        command.press("\x1b")
        assert command.end() == Outcome.ESTOPPED.value
    assert "ESTOPPED: at tick" in command.said
    assert status(system)[:2] == (State.ESTOP, Fault.ESTOP_COMMAND)


@pytest.mark.slow
def test_keys_pause_change_the_prompt_resume_and_end(system: RunSystem):
    with Command(system, terminal=True) as command:
        command.wait_for("the ticks are the policy's")
        command.press(" ")
        command.wait_for("PAUSED")
        assert wait_until_at_rest(system)[0] == State.DISARMED
        command.press("pTransfer the cube\r")
        command.wait_for("Transfer the cube")
        command.press(" ")
        time.sleep(1.0)
        assert status(system)[0] == State.RUNNING
        command.press("q")
        assert command.end() == Outcome.DONE.value
    assert "DONE: q was pressed" in command.said


@pytest.mark.slow
def test_a_killed_run_leaves_an_arm_at_rest_that_nobody_holds(system: RunSystem):
    with playing(system) as command:
        command.process.kill()
        assert wait_until_at_rest(system) == (State.SAFE, Fault.STARVATION, "")


@pytest.mark.slow
def test_a_run_goes_on_with_a_policy_server_that_was_killed_and_started_again(system: RunSystem):
    with playing(system, "--hold", "60") as command:
        address = system.policy.address
        system.policy.process.kill()
        command.wait_for(": holding: ")
        command.wait_for(": disarmed: ")
        assert status(system)[0] == State.DISARMED
        system.policy.process.wait()
        system.start_policy(address)
        command.wait_for("what was missing is back")
        command.process.send_signal(signal.SIGINT)
        assert command.end() == Outcome.DONE.value


@pytest.mark.slow
def test_a_policy_server_that_stays_away_ends_the_run(system: RunSystem):
    with playing(system, "--hold", "2") as command:
        address = system.policy.address
        system.policy.process.kill()
        assert command.end() == Outcome.LOST.value
        assert "LOST: no policy server answers" in command.said and "the run waited 2 s for it" in command.said
    assert status(system) == (State.DISARMED, Fault(0), "")
    system.policy.process.wait()
    system.start_policy(address)


@pytest.mark.slow
def test_a_policy_server_that_hangs_is_waited_for_with_the_arm_at_rest(system: RunSystem):
    with playing(system, "--hold", "2") as command:
        system.policy.process.send_signal(signal.SIGSTOP)
        try:
            command.wait_for(": holding: no chunk came before the last one had been executed")
            assert command.end() == Outcome.LOST.value
        finally:
            system.policy.process.send_signal(signal.SIGCONT)
    assert status(system) == (State.DISARMED, Fault(0), "")


@pytest.mark.slow
def test_a_killed_bridge_ends_the_run_and_the_firmware_stops_the_arm(system: RunSystem):
    with playing(system) as command:
        system.bridge.process.kill()
        assert command.end() == Outcome.LOST.value
        assert "LOST: " in command.said and "Traceback" not in command.said
    system.bridge.process.wait()
    system.start_bridge()
    state, faults, owner = status(system)
    assert (state, owner) == (State.SAFE, "") and faults & (Fault.HEARTBEAT | Fault.STARVATION)
    system.camera.process.kill()
    shutil.rmtree(system.images)
    system.start_camera()


@pytest.mark.slow
def test_a_reset_board_ends_the_run_with_its_arm_disarmed(system: RunSystem):
    with playing(system) as command:
        system.board.reset()
        assert command.end() == Outcome.LOST.value
    assert status(system)[0] == State.DISARMED
