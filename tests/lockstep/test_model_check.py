"""Every short sequence of events keeps the invariants, and the model check finds each mistake put into the core."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from firmware_library import require

from firmware_bridge.lockstep import safety_table
from firmware_bridge.lockstep.host_library import FIRMWARE
from firmware_bridge.lockstep.model_check import build_program
from pi0_edge.protos.serial_link import State


def check(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def program() -> Path:
    require("make", "gcc")
    return build_program()


def test_no_sequence_of_four_events_violates_an_invariant(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = check(program, "4")
    assert ran.returncode == 0, ran.stdout
    last = re.findall(r"length 4: (\S+) sequences, (\d+) ticks executed, (\d+) states", ran.stdout)
    assert last and int(last[0][2]) > 10_000
    assert "violated: none" in ran.stdout and "seen: 37 of 37" in ran.stdout
    with capsys.disabled():
        print(f"\nmodel check: {last[0][0]} sequences of 4 events, {last[0][2]} states")


@pytest.mark.slow
def test_no_sequence_of_six_events_violates_an_invariant(program: Path) -> None:
    ran = check(program, "6")
    assert ran.returncode == 0, ran.stdout


def test_a_sequence_is_replayed_tick_by_tick(program: Path) -> None:
    ran = check(program, "replay", "h.ac....e")
    assert ran.returncode == 0
    lines = ran.stdout.splitlines()
    assert len(lines) == 9
    assert lines[0].startswith("h tick 1: state 0")
    assert lines[-1].startswith("e tick 9: state 5, faults 0x08")


MISTAKES = {
    "the e-stop pin does nothing in STARVED": (
        "core/safety.c",
        r"(ESTOP_PIN\] = +\{ESTOP, +ESTOP, +ESTOP, +)ESTOP",
        r"\1NONE",
        "pin did not act",
    ),
    "HEARTBEAT comes too late": (
        "core/safety.h",
        "HEARTBEAT_MS = 200",
        "HEARTBEAT_MS = 220",
        "without a heartbeat",
    ),
    "the joints brake at half their limit": (
        "core/motion_limiter.c",
        r"- limits->max_change;\n    const float step",
        "- 0.5f * limits->max_change;\n    const float step",
        "did not brake",
    ),
    "a disarmed arm still follows its curve": (
        "core/control.c",
        r"control->following = false;\n}",
        "}",
        "did not brake",
    ),
    "CLEAR is accepted while the arm moves": (
        "core/safety.c",
        r"!conditions->at_rest \|\| conditions->estop_pressed",
        "(!conditions->at_rest && conditions->estop_pressed)",
        "too early",
    ),
    "acceleration is not limited": (
        "core/motion_limiter.c",
        r"motion->velocity - change, motion->velocity \+ change",
        "motion->velocity - 2.0f * change, motion->velocity + 2.0f * change",
        "acceleration limit",
    ),
    "setpoints outlast DISARM": (
        "core/control.c",
        r"    setpoint_ring_clear\(&control->ring\);\n    control->following",
        "    control->following",
        "not sent since",
    ),
    "what an older chunk planned behind the end of a newer one stays": (
        "core/setpoint_ring.c",
        r"    forget_after\(ring, last_tick\);\n",
        "    (void)forget_after;\n",
        "older chunk follows",
    ),
    "STARVED lasts too long": (
        "core/safety.h",
        "STARVED_MS = 100",
        "STARVED_MS = 10000",
        "without setpoints",
    ),
    "a following error is watched for five times as long": (
        "core/guards.h",
        "GUARD_FOLLOWING_MS = 200",
        "GUARD_FOLLOWING_MS = 1000",
        "away from its commanded position",
    ),
    "a current against the joint is not seen": (
        "core/guards.c",
        r" \|\| value < -limit",
        "",
        "too much current",
    ),
    "the temperature is not watched": (
        "core/guards.c",
        r"is_over\(\(float\)measured->temperature, joint->temperature\)",
        "false",
        "too hot",
    ),
    "a supply that is too low is not seen": (
        "core/guards.c",
        "volts >= bus->lowest_volts",
        "volts >= 0.0f",
        "supply was too low",
    ),
    "torque that was lost is not seen": (
        "core/guards.c",
        r" \| LINK_JOINT_FLAG_RESTARTED",
        "",
        "lost its torque",
    ),
    "a silent bus is not seen": (
        "core/guards.h",
        "GUARD_SILENT_MS = 200",
        "GUARD_SILENT_MS = 1000",
        "bus was silent|too early",
    ),
    "the guards watch only RUNNING": (
        "core/safety.c",
        r"(EVENT_GUARD\] = +\{NONE, +)SAFE",
        r"\1NONE",
        "stayed active although|does not name",
    ),
    "ARM does not ask where the joints are": (
        "core/safety.c",
        r"measured != LINK_COMMAND_RESULT_OK",
        "false",
        "too early",
    ),
    "a first setpoint may be anywhere": (
        "core/start_checks.c",
        r"way > reach \|\| way < -reach",
        "way > reach && way < -reach",
        "out of reach was accepted",
    ),
    "the relief after a contact goes on after an e-stop": (
        "core/control.c",
        r"control->relieving && control->safety.state == LINK_STATE_SAFE;",
        "control->relieving;",
        "without a contact",
    ),
    "RELEASE is accepted while the arm moves": (
        "core/safety.c",
        r"conditions->at_rest && apply_event\(safety, SAFETY_EVENT_RELEASE",
        "apply_event(safety, SAFETY_EVENT_RELEASE",
        "too early|without torque",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_model_check_finds_each_mistake_in_the_core(name: str, tmp_path: Path) -> None:
    require("make", "gcc")
    file, pattern, planted, found = MISTAKES[name]
    built = build_program().parents[1].relative_to(FIRMWARE)
    copy = tmp_path / "firmware"
    shutil.copytree(FIRMWARE, copy, ignore=shutil.ignore_patterns("build", "__pycache__"))
    shutil.copytree(FIRMWARE / built, copy / built)
    text = (copy / file).read_text()
    mistaken = re.sub(pattern, planted, text, count=1)
    assert mistaken != text
    (copy / file).write_text(mistaken)
    argv = ["make", "-C", str(copy), "model-check", f"ROBOT={built.name}", f"ROBOTS={built}", f"BUILD={built}"]
    made = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    ran = check(copy / built / "host" / "check_sequences", "4")
    assert ran.returncode == 1
    assert re.search(f"VIOLATED: .*({found})", ran.stdout), ran.stdout


def test_the_page_shows_the_table_of_the_core() -> None:
    require("make", "gcc")
    assert safety_table.current_page() == safety_table.PAGE.read_text(), (
        "run: python -m firmware_bridge.lockstep.safety_table"
    )


def test_every_command_and_fault_is_in_the_table() -> None:
    require("make", "gcc")
    transitions = safety_table.read_transitions()
    assert {event for event, _ in transitions} == set(safety_table.read_events())
    assert all(transitions["ESTOP_PIN", state] == State.ESTOP for state in State)
    leaving = {event for (event, before), after in transitions.items() if before >= State.SAFE and after < State.SAFE}
    assert leaving == {"CLEAR"}
