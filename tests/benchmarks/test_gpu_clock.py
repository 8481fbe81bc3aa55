"""Measurements on a GPU whose clock is still rising, and what a report says of it; no GPU is needed."""

from pathlib import Path

import pytest

from benchmarks.gpu_clock import describe_clock, fastest, ramp_clock


def test_a_rising_clock_does_not_choose_the_plan():
    """Cold, everything takes twice as long: who is timed first would lose, however fast."""
    true_seconds, asked = {"first": 1.0, "second": 1.3, "third": 1.6}, []

    def seconds(plan: str) -> float:
        asked.append(plan)
        return true_seconds[plan] * (2.0 if len(asked) <= 1 else 1.0)

    assert true_seconds["first"] * 2 > true_seconds["third"]
    best, times = fastest(list(true_seconds), seconds)
    assert best == "first" and times == true_seconds
    assert asked[:6] == [*true_seconds, *true_seconds], "not in turns"
    assert asked[-6:] == ["first", "second"] * 3, "the fastest were not timed again"


def test_the_clock_is_brought_up_for_the_seconds_that_are_asked():
    assert ramp_clock(0.05, "cpu", 16) > 1


def test_a_report_names_power_mode_and_clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "nvpmodel"
    program.write_text("#!/bin/sh\necho 'NV Power Mode: MAXN'\necho 0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    gpu = tmp_path / "devfreq" / "17000000.gpu"
    gpu.mkdir(parents=True)
    (gpu / "cur_freq").write_text("306000000\n")
    (gpu / "max_freq").write_text("1300500000\n")
    assert describe_clock(tmp_path / "devfreq") == {
        "power mode": "NV Power Mode: MAXN, 0",
        "clocks": "17000000.gpu 306000000 of 1300500000 Hz",
    }


def test_a_machine_that_tells_nothing_is_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_clock(tmp_path) == {"power mode": "not told", "clocks": "not told"}
