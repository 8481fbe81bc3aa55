"""Runs the compiled core for an hour with random faults; checks the invariants at every servo step and tick.

    python -m firmware_bridge.lockstep.soak [--robot aloha] [--seed 1] [--ticks 180000]

A simulated host arms the arm, sends heartbeats and sends overlapping chunks, half of them as a head and a rest, which
comes at once, late or never. A seed decides when the line has bit
errors, when host or policy send nothing, when chunks come late or jump, when the e-stop acts, when servo interrupts
come late, when the board resets, and when the servos of a joint meet an obstacle, draw too much, overheat, restart or
fall silent. Two runs with the same seed are equal bit for bit: the digest that is printed
covers the position of every joint at every servo step. A violation is printed with its seed and tick, so that the same
command reproduces it.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from firmware_bridge.emulator.line_direction import FaultInjector, LineFaults
from firmware_bridge.firmware.joint_table import JointTable, load_joint_table
from firmware_bridge.lockstep.host_firmware import HostFirmware, only
from firmware_bridge.lockstep.invariants import InvariantChecker, InvariantViolationError
from pi0_edge.errors import Pi0EdgeError
from pi0_edge.protos.serial_link import (
    SCHEMA_HASH,
    Command,
    CommandReply,
    CommandRequest,
    Fault,
    Fragment,
    Hello,
    JointFlag,
    Ping,
    ResetCause,
    State,
    Telemetry,
)

HORIZON = 50
LEAD_TICKS = 4
HEAD_STEPS = 8
PING_EVERY, CHUNK_EVERY, RECOVER_EVERY = 2, 10, 25  # ticks
FAULT_RATE = 0.02  # of ticks at which one begins
PROGRESS_EVERY = 20_000  # ticks
GOOD = JointFlag.MEASURED | JointFlag.TORQUE
SERVO_FAULTS: dict[str, dict[str, Any]] = {
    "obstacle": {"position": 0.7, "current": 1.8},
    "contact": {"current": -3.0},
    "hot servo": {"temperature": 85},
    "low supply": {"volts": 4.0},
    "restarted servo": {"flags": JointFlag.MEASURED | JointFlag.RESTARTED},
    "overload": {"flags": GOOD | JointFlag.OVERLOADED},
    "silent servo": {"age": 255},
}
"""What the servos of one joint measure, for as long as the fault lasts; every joint else follows its commands."""

NOISE = LineFaults(bit_error_rate=1e-4, byte_drop_rate=1e-3, byte_duplicate_rate=1e-3, frame_duplicate_rate=0.05)
FAULTS = (
    *("noise", "silent host", "silent policy", "late chunks", "jumping chunks", "estop", "pin", "late", "reset"),
    "release",
    *SERVO_FAULTS,
)


@dataclass
class Tally:
    """What a run contained.

    Attributes:
        ticks: Executed ticks.
        states: Ticks in each state.
        faults: How often each fault started.
        latched: How often the core latched each of its faults.
        chunks: Chunks that the host sent.
        digest: SHA-256 of position and velocity of every joint at every servo step.
    """

    ticks: int = 0
    states: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    latched: Counter[str] = field(default_factory=Counter)
    chunks: int = 0
    digest: str = ""


class Soak:
    """One run with the faults of a seed.

    Where the table has servos, they measure every joint, and fail too.
    """

    def __init__(self, table: JointTable, seed: int) -> None:
        self.tally = Tally()
        self._random = random.Random(seed)  # noqa: S311 - reproducible, not secret
        self._firmware = HostFirmware(table)
        self._line = FaultInjector(seed)
        self._checker = InvariantChecker(table)
        self._hash = hashlib.sha256()
        self._rest: tuple[int, list[Fragment]] | None = None  # of a chunk whose head was sent, and when it is sent
        self._state = State.DISARMED
        self._silent_ticks = table.control_hz
        self._cleared = False
        self._until: dict[str, int] = {}  # the tick of this run at which a lasting fault ends
        self._faulty: dict[int, str] = {}  # joints with a fault of their servos
        self._latched = self._known = Fault(0)
        self._amplitudes = [min(joint.maximum - joint.home, joint.home - joint.minimum) for joint in table.joints]

    def run(self, ticks: int) -> Iterator[Tally]:
        """Runs the core; yields the tally every `PROGRESS_EVERY` ticks and at the end.

        Raises:
            InvariantViolationError: The core violated an invariant; the message names the tick.
        """
        self._connect()
        for tick in range(ticks):
            self.tally.ticks = tick + 1
            try:
                self._run_tick(tick)
            except InvariantViolationError as error:
                raise InvariantViolationError(f"tick {tick}: {error}") from error
            if tick + 1 == ticks or (tick + 1) % PROGRESS_EVERY == 0:
                self.tally.digest = self._hash.hexdigest()
                yield self.tally

    def _run_tick(self, tick: int) -> None:
        elapsed, pressed = 1, False
        if self._random.random() < FAULT_RATE:
            fault = self._random.choice(FAULTS)
            self.tally.faults[fault] += 1
            if fault == "estop":
                self._command(Command.ESTOP)
            elif fault == "pin":
                pressed = True
            elif fault == "late":
                elapsed = self._random.choice((2, 3, 5, 12, 30))
            elif fault == "reset":
                self._reset()
            elif fault == "release":
                self._command(Command.RELEASE)
            elif fault in SERVO_FAULTS:
                self._until[fault] = tick + self._random.randint(1, 80)
                self._faulty[self._random.randrange(len(self._firmware.table.joints))] = fault
            else:
                self._until[fault] = tick + self._random.randint(1, 40)
        self._line.faults = NOISE if self._lasts("noise", tick) else LineFaults()
        self._end_servo_faults(tick)
        self._run_host(tick)
        self._run_steps(elapsed, pressed)

    def _end_servo_faults(self, tick: int) -> None:
        for joint, fault in list(self._faulty.items()):
            if not self._lasts(fault, tick):
                del self._faulty[joint]
                self._measure(joint)

    def _measure(self, joint: int) -> None:
        """Tells the core what the servos of a joint measure from now on."""
        volts = 0.5 * (self._firmware.table.bus.lowest_volts + self._firmware.table.bus.highest_volts)
        ordinary: dict[str, Any] = {"position": 0.001, "current": 0.1, "volts": volts, "temperature": 40, "flags": GOOD}
        if self._firmware.table.servos:
            self._firmware.measure(
                joint, near=True, **{**ordinary, **SERVO_FAULTS.get(self._faulty.get(joint, ""), {})}
            )

    def _lasts(self, fault: str, tick: int) -> bool:
        return self._until.get(fault, 0) > tick

    def _run_host(self, tick: int) -> None:
        """Sends what the host sends before a tick."""
        self._silent_ticks += 1
        if self._lasts("silent host", tick):
            return
        if tick % PING_EVERY == 0:
            self._send(Ping(tick, 0))
            self._silent_ticks = 0
        if tick % RECOVER_EVERY == 0:
            self._recover()
        if tick % CHUNK_EVERY == 0 and not self._lasts("silent policy", tick):
            self._rest = None
            self._send(*self._chunk(tick))
        if self._rest is not None and tick >= self._rest[0]:
            self._send(*self._rest[1])
            self._rest = None

    def _recover(self) -> None:
        if self._state in (State.SAFE, State.ESTOP):
            self._command(Command.CLEAR)
        elif self._state == State.DISARMED:
            self._connect()
            self._command(Command.CLEAR)
            self._command(Command.ARM)
        elif self._random.random() < 0.02:
            self._command(Command.DISARM)

    def _chunk(self, tick: int) -> list[Fragment]:
        """Makes a chunk that moves all joints slowly around home, or that jumps between the ends of their ranges.

        Of every second one it returns the head, and keeps the rest.
        The first one after ARM leads there from where the arm is.
        """
        self.tally.chunks += 1
        firmware, joints = self._firmware, self._firmware.table.joints
        first = (
            firmware.tick_number + LEAD_TICKS - (self._random.randint(0, 60) if self._lasts("late chunks", tick) else 0)
        )
        here = firmware.motion_array()[:, 0].tolist()
        rows = []
        for step in range(HORIZON):
            phase = 1.0 - math.cos(0.03 * (first + step))
            share = self._random.choice((-1.0, 1.0)) if self._lasts("jumping chunks", tick) else 0.45 * phase
            there = [joint.home + share * reach for joint, reach in zip(joints, self._amplitudes, strict=True)]
            way = step / HORIZON if self._state == State.ARMED else 1.0
            counts = zip(here, there, joints, strict=True)
            rows.append([round((a + way * (b - a)) / joint.resolution) for a, b, joint in counts])
        per_fragment, first = 200 // (2 * len(rows[0])), max(first, 0)
        if self._random.random() < 0.5:
            return firmware.fragments(first, rows, per_fragment)
        steps = self._random.randint(1, HEAD_STEPS)
        head = firmware.fragments(first, rows[:steps], per_fragment)
        rest = firmware.fragments(first + steps, rows[steps:], per_fragment)
        after = self._random.choice(
            (0, 0, 0, 0, 0, 1, 2, steps + 3, CHUNK_EVERY)
        )  # the last: the next chunk comes first
        self._rest = tick + after, rest
        return head

    def _connect(self) -> None:
        for joint in range(len(self._firmware.table.joints)):
            self._measure(joint)
        self._send(Hello(SCHEMA_HASH))

    def _command(self, command: Command) -> None:
        self._cleared = self._cleared or command == Command.CLEAR
        replies = only(CommandReply, self._send(CommandRequest(self._random.getrandbits(32), command)))
        if command == Command.ESTOP and replies:
            self._checker.check_estop(self._state)

    def _send(self, *messages: Any) -> list[Any]:
        """Sends messages through the line with its faults; returns the answers, which no fault of the line changes."""
        for message in messages:
            self._firmware.receive(self._line.apply(self._firmware.frame(message)))
        answers = self._firmware.poll()
        for reply in only(CommandReply, answers):
            self._state = State(reply.state)
        return answers

    def _reset(self) -> None:
        self._firmware.reset(self._random.choice((ResetCause.WATCHDOG, ResetCause.POWER_ON)))
        self._checker.restart()
        self._latched = self._known = Fault(0)
        self._state, self._cleared = State.DISARMED, False

    def _run_steps(self, elapsed: int, pressed: bool) -> None:
        """Runs the servo steps from the second one of the last tick to the first one of the next."""
        firmware = self._firmware
        firmware.library.host_press_estop(pressed)
        for step in range(1, firmware.servo_steps if elapsed == 1 and firmware.tick_number > 0 else 1):
            firmware.servo(step)
            self._state = State.ESTOP if pressed else self._state
            self._check_motion(evenly=True)
        before = self._state
        report = firmware.tick(elapsed, heartbeat=False)
        firmware.library.host_press_estop(False)
        self._check_report(before, report, pressed)
        self._check_motion(evenly=elapsed == 1)

    def _check_report(self, before: State, report: Telemetry, pressed: bool) -> None:
        self._state, self._latched = State(report.state), Fault(report.faults)
        for fault in Fault:
            self.tally.latched[fault.name or ""] += bool(self._latched & fault and not self._known & fault)
        self._known = self._latched
        if pressed:
            self._checker.check_estop(self._state)
        self._checker.check_tick(before, report, self._cleared, self._silent_ticks)
        self._cleared = False
        self.tally.states[self._state.name] += 1

    def _check_motion(self, evenly: bool) -> None:
        motion = self._firmware.motion_array()
        self._hash.update(motion.tobytes())
        relieved = bool(self._latched & (Fault.CONTACT | Fault.FOLLOWING_ERROR))
        self._checker.check_step(motion.astype(np.float64), self._state, evenly, relieved)


def describe(tally: Tally) -> str:
    """Returns the text that the command prints: one line for each kind of figure."""
    states = ", ".join(f"{name} {count / tally.ticks:.1%}" for name, count in sorted(tally.states.items()))
    faults = ", ".join(f"{name} {count}" for name, count in sorted(tally.faults.items()))
    latched = ", ".join(f"{name} {count}" for name, count in sorted(tally.latched.items()) if count)
    return (
        f"{tally.ticks} ticks, {tally.chunks} chunks\nstates: {states}\nfaults: {faults}\nlatched: {latched}\n"
        f"digest: {tally.digest}"
    )


def main() -> int:
    """Runs an hour, or as the command line says; returns 1 where an invariant is violated."""
    parser = argparse.ArgumentParser(prog="soak", description="Random faults on the compiled core, tick by tick.")
    parser.add_argument("--robot", default="aloha", help="robot by name, or the path of its file (default aloha)")
    parser.add_argument("--seed", type=int, default=1, help="decides everything that happens (default 1)")
    parser.add_argument("--ticks", type=int, default=180_000, help="default 180000, an hour at 50 Hz")
    options = parser.parse_args()
    try:
        soak = Soak(load_joint_table(options.robot), options.seed)
        for tally in soak.run(options.ticks):
            sys.stderr.write(f"{tally.ticks} of {options.ticks} ticks\n")
    except InvariantViolationError as error:
        options_again = f"--robot {options.robot} --seed {options.seed} --ticks {options.ticks}"
        sys.stdout.write(f"VIOLATED at {error}\nreproduce: python -m firmware_bridge.lockstep.soak {options_again}\n")
        return 1
    except Pi0EdgeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"robot {options.robot}, seed {options.seed}: no invariant violated\n{describe(soak.tally)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
