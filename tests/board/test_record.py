"""A recording of a board, laid out again, says what the board said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_boards import BOARDS, NAMES, entries, lay_out, lay_out_text

from pi0_edge.board.boot_slots import read_boot_slots
from pi0_edge.board.readings import Board
from pi0_edge.board.record import entry, record


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_of_a_board_that_was_laid_out_is_that_board(tmp_path: Path, name: str):
    first = lay_out(name, tmp_path / "first")
    recording = record(first)
    second = lay_out_text(recording, tmp_path / "second")
    assert Board(second).state(processes=False) == Board(first).state(processes=False)
    assert read_boot_slots(second) == read_boot_slots(first)
    assert record(second) == recording


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_stands_in_a_board_would_be_recorded(tmp_path: Path, name: str):
    """Besides processes, of which a recording says nothing, and counters of single processors."""
    recorded = {path for path, _ in entries(record(lay_out(name, tmp_path)))}
    written = {path for path, content in entries((BOARDS / f"{name}.txt").read_text()) if content is not None}
    left_out = written - recorded
    assert {path for path in left_out if not path.split("/")[2].isdigit() and "core_throttle" not in path} == set()


def test_the_command_records_this_machine(tmp_path: Path):
    """What it says of itself between then and now: what does not change."""
    ran = subprocess.run([sys.executable, "-m", "pi0_edge.board.record"], capture_output=True, text=True, check=True)
    laid_out, here = Board(lay_out_text(ran.stdout, tmp_path)).state(processes=False), Board().state(processes=False)
    for name in ("model", "release", "kernel", "power_mode", "boot_id", "governors", "clock_limits_mhz"):
        assert getattr(laid_out, name) == getattr(here, name), name
    assert laid_out.memory_available_bytes is not None
    assert laid_out.forks is not None and here.forks is not None and 0 < laid_out.forks <= here.forks
    assert ran.stdout.startswith(f"# {here.model}")


@given(st.binary(max_size=60))
def test_any_content_comes_back(content: bytes):
    written = entry("/sys/some file", content)
    assert list(entries(f"# head\n\n{written}\n/next = 1\n")) == [("/sys/some file", content), ("/next", b"1\n")]


@given(st.lists(st.text("ab \\\0#:=\té", max_size=8), max_size=5))
def test_any_lines_come_back(lines: list[str]):
    content = "".join(f"{line}\n" for line in lines).encode()
    assert list(entries(entry("/f", content) + "\n")) == [("/f", content)]


def test_a_file_that_fails_is_recorded_as_that():
    assert list(entries(entry("/sys/zone/temp", None))) == [("/sys/zone/temp", None)]


def test_boards_say_how_they_came_to_be():
    for name in NAMES:
        head = (BOARDS / f"{name}.txt").read_text().split("\n\n")[0]
        assert "Written by hand" in head or "Recorded with" in head
