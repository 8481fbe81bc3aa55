"""The table of real-time settings: rows are started as they say, and what was measured is counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.real_time_settings import HEADER, NOT_MEASURED, ROWS, Row, heartbeat_gaps_ms, possible, rounded, table
from firmware_bridge.bridge.thread_settings import ThreadSettings
from firmware_bridge.bridge.wake_ups import command
from firmware_bridge.link.framing import encode_frame
from pi0_edge.protos.serial_link import Pong

ROOT = Path(__file__).resolve().parents[2]


def sample(setting: str, **others: Any) -> dict[str, Any]:
    measured = {"setting": setting, "load": 9.5, "histogram_us": {"20": 900, "400": 100}, "latest_us": 403}
    measured |= {"longest_gap_ms": 51.5, "chunks": {"ACCEPTED": 3, "LATE": 1}, "skipped": [2, 2, 7]}
    return (
        measured
        | {"fewest_setpoints": 31, "stops": {"at tick 3 the arm became SAFE (STARVATION)": 2, "the link is down": 5}}
        | others
    )


def row_of(text: str, setting: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {setting} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_holds_all_runs_of_a_setting() -> None:
    runs = [sample("none"), sample("none", latest_us=900, longest_gap_ms=230.0, fewest_setpoints=None, stops={})]
    text = table(runs, {"cores": "2"}, "command")
    expected = ["none", "2000", "20", "400", "not enough", "900", "230.0", "2 of 8", "2 / 7", "31", "2"]
    assert row_of(text, "none") == expected
    assert len(expected) == len(HEADER)
    assert "load average: 9.5 to 9.5; the machine was shared" in text
    assert row_of(text, "all together")[1:3] == ["0", "–"]
    assert all(name in text for name in NOT_MEASURED)


def test_only_heartbeats_that_follow_each_other_are_compared() -> None:
    sent = [(7, 1_000_000), (8, 1_050_000), (9, 1_180_000), (11, 1_900_000), (0, 5)]
    pongs = [encode_frame(Pong.ID, k, Pong(ping, at, 0, 0).pack()) for k, (ping, at) in enumerate(sent)]
    assert heartbeat_gaps_ms(b"".join(pongs)) == pytest.approx([50.0, 130.0])


@given(st.dictionaries(st.integers(0, 10**8), st.integers(1, 50)))
def test_rounding_loses_no_wake_up_and_little_of_its_lateness(histogram: dict[int, int]) -> None:
    found = rounded(histogram)
    assert sum(found.values()) == sum(histogram.values())
    for late in histogram:
        assert any(0 <= late - kept <= 0.016 * late for kept in found)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_program_gets_what_its_row_says_and_no_more(row: Row) -> None:
    if why := possible(row):
        pytest.skip(why)
    os_niceness = os.getpriority(os.PRIO_PROCESS, 0)
    ran = subprocess.run(
        row.start(command(2, 1000, ThreadSettings())), cwd=ROOT, capture_output=True, text=False, check=True
    )
    had = ThreadSettings.from_dict(json.loads(ran.stdout.partition(b"\n")[0]))
    assert had.priority == row.settings.priority
    assert had.cpus == (row.settings.cpus or os.sched_getaffinity(0))
    if os.geteuid() == 0:
        assert had.niceness == (-10 if row.may_be_nice else 0)
        assert had.lock_memory is row.may_lock
    assert os.getpriority(os.PRIO_PROCESS, 0) == os_niceness


def test_what_this_machine_refuses_is_told() -> None:
    row = Row("nowhere", ThreadSettings(cpus=frozenset({4095})), load_cpus=frozenset({0}))
    assert possible(row)
    ran = subprocess.run(row.start([sys.executable, "-c", ""]), cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode != 0 and "4095" in ran.stderr
