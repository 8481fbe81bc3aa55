"""The watcher beside real runs: of this machine, and of a recorded board whose files change meanwhile."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from judged_results import MEASURED, result_of
from recorded_boards import lay_out

from pi0_edge.bench.energy import energies_of_run
from pi0_edge.bench.result import BenchResult, Reading, Run
from pi0_edge.bench.samples import Samples
from pi0_edge.bench.verdict import FEWEST_SAMPLES, judge
from pi0_edge.bench.watching import BoardWatcher
from pi0_edge.board.readings import Board
from pi0_edge.board.state import BoardState

pytestmark = [pytest.mark.real_time, pytest.mark.system]

CHUNK_S = 0.01


def timed(watcher: BoardWatcher, chunks: int = 60, halfway: Callable[[], object] = lambda: None) -> BenchResult:
    """A closed run of chunks that sleep, watched; in the middle of it something happens."""
    times = []
    with watcher:
        took_before_s = watcher.thread_s
        for number in range(chunks):
            if number == chunks // 2:
                halfway()
            begin_ns = time.monotonic_ns()
            time.sleep(CHUNK_S)
            times.append((begin_ns, time.monotonic_ns()))
        overhead_ms = 1e3 * (watcher.thread_s - took_before_s) / chunks
    begins, ends = np.array(times, np.int64).T
    samples = Samples(begins, begins, ends, np.zeros(chunks, np.int64))
    return result_of([Run("closed", None, None, samples, overhead_ms)], watcher.readings)


def reasons_about_the_board(result: BenchResult) -> list[str]:
    """Sleeps on a shared machine may last longer at first; what this machine's clock does is no subject here."""
    return [reason for reason in judge(result).reasons if "first tenth" not in reason and "bench itself" not in reason]


def test_readings_before_during_and_after(tmp_path: Path):
    result = timed(BoardWatcher(Board(lay_out("agx-orin", tmp_path), own=(MEASURED,)), quick_s=0.03, whole_s=0.25))
    times = [reading.time_ns for reading in result.readings]
    assert times == sorted(times)
    samples = result.runs[0].samples
    assert times[0] < samples.begin_ns[0] and times[-1] > samples.end_ns[-1]
    assert result.readings[0].state.cpu_own_s is not None and result.readings[-1].state.cpu_own_s is not None
    within = [reading.state for reading in result.readings[1:-1]]
    whole = [state for state in within if state.temperatures_c]
    quick = [state for state in within if not state.temperatures_c]
    assert len(whole) >= 1 and len(quick) > len(whole)
    assert all(state.rails_mw for state in within)
    assert reasons_about_the_board(result) == []
    groups = {energy.group for energy in energies_of_run(result, result.runs[0])}
    assert groups == {"compute", "module"}


def test_a_board_without_rails_is_read_more_seldom(tmp_path: Path):
    result = timed(BoardWatcher(Board(lay_out("x86", tmp_path)), whole_s=0.2))
    assert all(reading.state.temperatures_c for reading in result.readings)
    took_s = (result.readings[-1].time_ns - result.readings[0].time_ns) * 1e-9
    assert 3 <= len(result.readings) <= 3 + took_s / 0.2


FAULTS: dict[str, tuple[tuple[str, str], ...]] = {
    "cpu-throttle-alert was active in": (("sys/class/thermal/cooling_device1/cur_state", "1"),),
    "the highest allowed clock of gpu changed from 1300.5 MHz to 612 MHz": (
        ("sys/class/devfreq/17000000.gpu/max_freq", "612000000"),
    ),
    "the power mode changed from 0 MAXN to 3 MODE_50W": (("var/lib/nvpmodel/status", "pmode:0003 fmode:quiet"),),
    "the governor of policy4 changed from schedutil to powersave": (
        ("sys/devices/system/cpu/cpufreq/policy4/scaling_governor", "powersave"),
    ),
    "oc2 (average over-current) rose from 0 to 3": (("sys/class/hwmon/hwmon3/oc2_event_cnt", "3"),),
    "used swap grew from 0 to": (
        ("proc/meminfo", "MemAvailable: 500000 kB\nSwapTotal: 32171456 kB\nSwapFree: 32071456 kB"),
    ),
}


@pytest.mark.parametrize("words", FAULTS)
def test_what_happens_to_a_board_during_a_run_voids_it(tmp_path: Path, words: str):
    root = lay_out("agx-orin", tmp_path)

    def happens() -> None:
        for path, content in FAULTS[words]:
            (root / path).write_text(f"{content}\n")

    result = timed(BoardWatcher(Board(root, own=(MEASURED,)), whole_s=0.1), FEWEST_SAMPLES, happens)
    found = reasons_about_the_board(result)
    assert len(found) == 1 and found[0].startswith(words), found
    assert not judge(result).valid


def test_a_moment_of_throttling_is_seen(tmp_path: Path):
    """An alert of 0.4 s between two whole readings, as the fans catch up with it."""
    root = lay_out("agx-orin", tmp_path)
    alert = root / "sys/class/thermal/cooling_device2/cur_state"

    def halfway() -> None:
        alert.write_text("1\n")
        time.sleep(0.4)
        alert.write_text("0\n")

    result = timed(BoardWatcher(Board(root, own=(MEASURED,)), whole_s=60), halfway=halfway)
    assert [reason.split(" was")[0] for reason in reasons_about_the_board(result)] == ["gpu-throttle-alert"]
    assert result.readings[-1].state.throttling == ()


def test_another_process_on_the_core_is_named():
    """A real one, started so that it is nobody's child here, as the programs of other people are."""
    burn = "import time\nend = time.monotonic() + 1.8\nwhile time.monotonic() < end: pass"
    start = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {burn!r}]).pid)"
    others: list[int] = []

    def foreign() -> None:
        ran = subprocess.run([sys.executable, "-S", "-c", start], capture_output=True, text=True, check=True)
        others.append(int(ran.stdout))

    result = timed(BoardWatcher(Board()), 150, foreign)
    named = [reason for reason in judge(result).reasons if f"({others[0]})" in reason]
    assert len(named) == 1, judge(result).reasons
    assert named[0].startswith("another process, python")


def test_a_load_that_was_started_here_is_not_held_against_the_run():
    burn = "import time\nend = time.monotonic() + 0.9\nwhile time.monotonic() < end: pass"
    load = subprocess.Popen([sys.executable, "-S", "-c", burn])
    try:
        result = timed(BoardWatcher(Board()))
    finally:
        load.wait()
    assert not any(f"({load.pid})" in reason for reason in judge(result).reasons)
    first, last = result.readings[0].state.cpu_own_s, result.readings[-1].state.cpu_own_s
    assert first is not None and last is not None and last - first > 0.02


def test_the_cost_of_watching_is_counted(tmp_path: Path):
    """The thread's own time, whatever the rest of the process does meanwhile."""
    watcher = BoardWatcher(Board(lay_out("agx-orin", tmp_path)), quick_s=0.02, whole_s=0.04)
    assert watcher.thread_s == 0
    began = time.process_time()
    with watcher:
        time.sleep(0.3)
        seen = watcher.thread_s
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
    took = time.process_time() - began
    assert 0 < seen <= watcher.thread_s < took - 0.25


class Unreadable(Board):
    """A board whose state cannot be read from the third time on."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked = 0

    def state(self, processes: bool = True) -> BoardState:
        self.asked += 1
        if self.asked > 2:
            raise RuntimeError("the sensor is gone")
        return super().state(processes)


def test_a_board_that_cannot_be_read_disturbs_nothing_and_is_told(tmp_path: Path):
    board = Unreadable(lay_out("x86", tmp_path))
    watcher = BoardWatcher(board, whole_s=0.05)
    result = timed(watcher)
    assert len(result.readings) == 2 and board.asked > 5
    assert watcher.problems == (
        f"a reading of the board failed {board.asked - 2} times: RuntimeError('the sensor is gone')",
    )


def test_an_error_of_what_is_timed_comes_through_and_the_thread_ends(tmp_path: Path):
    watcher = BoardWatcher(Board(lay_out("x86", tmp_path)))
    with pytest.raises(KeyError), watcher:
        raise KeyError("of the run")
    assert len(watcher.readings) == 2
    assert not watcher._thread.is_alive()


def test_readings_survive_the_file(tmp_path: Path):
    """As whole and as quick ones."""
    result = timed(BoardWatcher(Board(lay_out("agx-orin", tmp_path), own=(MEASURED,))), FEWEST_SAMPLES)
    read = result.to_dict()["readings"]
    again = tuple(Reading(one["time_ns"], BoardState.from_dict(one["state"])) for one in read)
    assert again == result.readings
    assert judge(replace(result, readings=again)) == judge(result)
