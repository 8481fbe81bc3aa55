"""The unmodified image of the Raspberry Pi Pico in rp2040js: its output is reproducible and equals that of the host."""

from __future__ import annotations

import math
import re
import shutil
import struct
from itertools import pairwise
from pathlib import Path

import pytest
from firmware_library import FIRMWARE, make
from rp2040_board import Script, build_image, require_emulator

from firmware_bridge.firmware.board_sizes import BOARDS, measure
from firmware_bridge.firmware.joint_table import load_joint_table
from firmware_bridge.firmware.uf2 import crc32_of_rom, pack_uf2
from firmware_bridge.lockstep.host_firmware import HostFirmware, only
from pi0_edge.protos.serial_link import (
    SCHEMA_HASH,
    ChunkReply,
    ChunkResult,
    Command,
    CommandRequest,
    Counters,
    Fault,
    Fragment,
    Hello,
    Ping,
    State,
    Telemetry,
    TickFlag,
)

pytestmark = [pytest.mark.real_time, pytest.mark.system]

ALOHA = load_joint_table("aloha")
FIRST = 20  # tick of the first setpoint


@pytest.fixture(scope="module")
def image() -> Path:
    return build_image()


def rows(steps: int, jump: float = 0.0) -> list[list[int]]:
    """A sinusoidal motion of all joints; in its second half it exceeds the limits."""
    swing = [0.2 * (1 - math.cos(0.12 * step)) + (jump if step > steps // 2 else 0.0) for step in range(steps)]
    return [
        [round((j.home + share * 0.4 * (j.maximum - j.home)) / j.resolution) for j in ALOHA.joints] for share in swing
    ]


def fragments(first_tick: int, steps: list[list[int]], chunk_id: int = 1) -> list[Fragment]:
    firmware = HostFirmware(ALOHA)
    firmware.chunk_id = chunk_id - 1
    return firmware.fragments(first_tick, steps)


def armed_script() -> Script:
    """Hello, a heartbeat every other tick for two seconds, and ARM in tick 5."""
    script = Script().send(2.5, Hello(SCHEMA_HASH))
    for tick in range(3, 100, 2):
        script.send(tick + 0.3, Ping(tick, 0))
    return script.send(5.5, CommandRequest(1, Command.ARM))


def playing_script(steps: list[list[int]]) -> Script:
    return armed_script().send(FIRST - 8.5, *fragments(FIRST, steps))


def test_the_same_script_gives_the_same_bytes(image: Path) -> None:
    first, again = (playing_script(rows(40)).run(image, 70) for _ in range(2))
    assert first == again
    assert len(first.ticks) == 69
    assert {tick.state for tick in first.ticks[FIRST : FIRST + 35]} == {State.RUNNING}


def test_every_tick_is_the_hosts_bit_for_bit(image: Path) -> None:
    steps = rows(40, jump=0.5)
    board = playing_script(steps).run(image, 75).ticks
    host = HostFirmware(ALOHA)
    host.send(Hello(SCHEMA_HASH))
    expected: list[Telemetry] = []
    for tick in range(1, 75):
        if tick == 6:
            assert host.command(Command.ARM).result == 0
        if tick == FIRST - 8:
            assert host.play(FIRST, steps).result == ChunkResult.ACCEPTED
        expected.append(host.tick())
    assert [tick.tick for tick in board] == [tick.tick for tick in expected][: len(board)]
    for ours, theirs in zip(board, expected, strict=False):
        assert struct.pack("<14f", *ours.executed) == struct.pack("<14f", *theirs.executed), ours.tick
        assert (ours.state, ours.flags) == (theirs.state, theirs.flags)
    assert any(tick.flags & TickFlag.ACCELERATION_LIMITED for tick in board)
    assert board[-1].state == State.SAFE


def test_ticks_keep_the_period(image: Path) -> None:
    counters = [tick.counter for tick in Script().run(image, 100).ticks]
    assert all(abs(after - before - 20_000) < 20 for before, after in pairwise(counters))


def flooded(image: Path) -> tuple[int, list[ChunkReply], Counters | None]:
    """Chunks without a pause for half a second at 921600 baud while the arm moves."""
    script = playing_script(rows(60))
    for number in range(28):
        script.send(FIRST + number, *fragments(FIRST + number + 8, rows(55), chunk_id=number + 2))
    run = script.run(image, 60)
    counters = only(Counters, run.messages)
    return run.figures["overruns"], only(ChunkReply, run.messages), counters[-1] if counters else None


def test_a_full_line_at_921600_baud_loses_no_byte(image: Path) -> None:
    overruns, replies, counters = flooded(image)
    assert overruns == 0
    assert sum(reply.result == ChunkResult.ACCEPTED for reply in replies) >= 27
    assert counters is not None
    assert (counters.crc_errors, counters.framing_errors) == (0, 0)


@pytest.mark.slow
def test_a_uart_that_cannot_interrupt_the_servo_loses_bytes(tmp_path: Path) -> None:
    """Shows that rp2040js can detect the loss: the same flood, with equal priority of both interrupts."""
    require_emulator()
    copy = tmp_path / "firmware"
    shutil.copytree(FIRMWARE, copy, ignore=shutil.ignore_patterns("build", "__pycache__", "node_modules"))
    registers = copy / "boards" / "rp2040" / "registers.h"
    text, changed = re.subn("PRIORITY_SERVO 0x80u", "PRIORITY_SERVO 0x00u", registers.read_text())
    assert changed == 1
    registers.write_text(text)
    built = make("-s", "-C", str(copy), "rp2040")
    assert built.returncode == 0, built.stderr
    overruns, _, counters = flooded(copy / "build" / "rp2040" / "firmware.uf2")
    assert overruns > 0
    assert counters is not None and counters.crc_errors + counters.framing_errors > 0


@pytest.mark.parametrize("part", ["main", "servo"])
def test_the_watchdog_resets_the_board_when_loop_or_interrupt_hangs(image: Path, part: str) -> None:
    run = Script().event(15, hang=part).run(image, 60)
    assert 15 * 20 + 480 <= run.figures["watchdog_ms"] <= 15 * 20 + 520


def test_the_estop_pin_acts_in_the_next_tick(image: Path) -> None:
    run = playing_script(rows(60)).event(40.5, estop=True).event(43.5, estop=False).run(image, 60)
    state = {tick.tick: (tick.state, tick.faults) for tick in run.ticks}
    assert state[40][0] == State.RUNNING
    assert state[41] == state[55] == (State.ESTOP, Fault.ESTOP_PIN)
    assert run.ticks[-1].executed == run.ticks[-2].executed


def test_servo_interrupt_and_stack_stay_within_their_budgets(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = playing_script(rows(40, jump=0.5)).run(image, 75)
    cycles, stack = run.figures["worst_servo_cycles"], run.figures["deepest_stack"]
    with capsys.disabled():
        print(f"\nRP2040: longest servo interrupt {cycles} cycles ({cycles / 125:.0f} us), deepest stack {stack} bytes")
    assert cycles < 125_000_000 / ALOHA.servo_hz
    assert stack <= measure(next(board for board in BOARDS if board.name == "rp2040")).stack


def test_the_crc_of_the_rom_has_its_published_check_value() -> None:
    assert crc32_of_rom(b"123456789") == 0x0376E6E7  # CRC-32/MPEG-2


def test_blocks_of_uf2_cover_the_image() -> None:
    image = bytes(range(256)) * 2 + b"end"
    blocks = [pack_uf2(image)[at : at + 512] for at in range(0, 3 * 512, 512)]
    assert len(pack_uf2(image)) == 3 * 512
    for number, block in enumerate(blocks):
        head = struct.unpack_from("<8I", block)
        expected = (0x0A324655, 0x9E5D5157, 0x2000, 0x10000000 + 256 * number, 256, number, 3, 0xE48BFF56)
        assert head == expected and struct.unpack_from("<I", block, 508)[0] == 0x0AB16F30
    assert b"".join(block[32:288] for block in blocks)[: len(image)] == image
