"""The whole state of each recorded board, value by value; and what it costs to ask."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from recorded_boards import NAMES, lay_out

from pi0_edge.board.readings import Board
from pi0_edge.board.state import BoardState

MEASURED = 4711
"""Process of the AGX Orin that stands for the measurement."""

AGX_ORIN = BoardState(
    model="NVIDIA Jetson AGX Orin Developer Kit",
    release="36.4.3",
    kernel="5.15.148-tegra",
    power_mode="0 MAXN",
    governors={"policy0": "schedutil", "policy4": "schedutil", "policy8": "schedutil", "gpu": "nvhost_podgov"},
    clocks_mhz={"cpu0": 729.6, "cpu4": 1420.8, "cpu8": 729.6, "gpu": 306.0, "memory": 2133.0},
    clock_limits_mhz={"cpu0": 2201.6, "cpu4": 2201.6, "cpu8": 2201.6, "gpu": 1300.5, "memory": 3199.0},
    lowest_clocks_mhz={"cpu0": 729.6, "cpu4": 729.6, "cpu8": 729.6, "gpu": 306.0, "memory": 204.0},
    temperatures_c={
        "cpu-thermal": 52.906,
        "gpu-thermal": 48.5,
        "soc0-thermal": 49.218,
        "soc1-thermal": 48.875,
        "soc2-thermal": 47.906,
        "tj-thermal": 52.906,
    },
    over_current_events={"oc1": 0, "oc2": 0, "oc3": 412},
    rails_mw={
        "VDD_GPU_SOC": 19136 * 680 / 1000,
        "VDD_CPU_CV": 19128 * 240 / 1000,
        "VIN_SYS_5V0": 4984 * 1008 / 1000,
        "VDDQ_VDD2_1V8AO": 4976 * 184 / 1000,
    },
    memory_available_bytes=57671680 * 1024,
    swap_used_bytes=0,
    cpu_busy_s=(120000 + 400 + 30000 + 200 + 300) / 100,
    cpu_own_s=(40000 + 2000 + 100 + 50) / 100 + (500 + 10) / 100,  # with the process that it started
    cpu_stolen_s=0.0,
    fan_rpm={"pwm_tach": 1684.0},
    boot_id="5d3b6ac1-8f1e-4a57-9c1c-000000000001",
)

ORIN_NX = BoardState(
    model="NVIDIA Jetson Orin NX Engineering Reference Developer Kit Super",
    release="36.4.3",
    kernel="5.15.148-rt-tegra PREEMPT_RT",
    power_mode="0 MAXN_SUPER",
    governors={"policy0": "performance", "policy4": "performance", "gpu": "nvhost_podgov"},
    clocks_mhz={"cpu0": 1984.0, "cpu4": 1984.0, "gpu": 1173.0, "memory": 3199.0},
    clock_limits_mhz={"cpu0": 1984.0, "cpu4": 1984.0, "gpu": 1173.0, "memory": 3199.0},
    lowest_clocks_mhz={"cpu0": 1984.0, "cpu4": 1984.0, "gpu": 1173.0, "memory": 204.0},
    temperatures_c={
        "cpu-thermal": 51.187,
        "gpu-thermal": 50.218,
        "soc0-thermal": 49.406,
        "soc1-thermal": 50.781,
        "soc2-thermal": 49.968,
        "tj-thermal": 51.187,
    },
    over_current_events={"oc1": 0, "oc2": 0, "oc3": 0},
    rails_mw={
        "VDD_IN": 4984 * 2960 / 1000,
        "VDD_CPU_GPU_CV": 4976 * 1120 / 1000,
        "VDD_SOC": 4976 * 640 / 1000,
    },
    memory_available_bytes=12058624 * 1024,
    swap_used_bytes=(8011264 - 8003072) * 1024,
    cpu_busy_s=(42000 + 9000 + 5 + 95) / 100,
    cpu_stolen_s=0.0,
    fan_rpm={"pwm_tach": 2210.0},
    boot_id="5d3b6ac1-8f1e-4a57-9c1c-000000000003",
)

THOR = BoardState(
    model="NVIDIA Jetson AGX Thor Developer Kit",
    release="38.4.0",
    kernel="6.8.12-tegra",
    power_mode="1 120W",
    governors={"policy0": "schedutil", "policy12": "schedutil", "gpu": "nvhost_podgov", "memory": "userspace"},
    clocks_mhz={"cpu0": 972.0, "cpu12": 1350.0, "gpu": 315.0, "memory": 4266.0},
    clock_limits_mhz={"cpu0": 2601.0, "cpu12": 2601.0, "gpu": 1386.0, "memory": 4266.0},
    lowest_clocks_mhz={"cpu0": 972.0, "cpu12": 972.0, "gpu": 315.0, "memory": 665.6},
    temperatures_c={
        "cpu-thermal": 53.687,
        "soc012-thermal": 55.125,
        "soc345-thermal": 53.687,
        "tj-thermal": 55.125,
    },
    rails_mw={
        "VDD_GPU": 12040 * -32 / 1000,
        "VDD_CPU_SOC_MSS": 12040 * 544 / 1000,
        "VIN_SYS_5V0": 5088 * 1280 / 1000,
        "VIN": 19968 * 1150 / 1000,
    },
    memory_available_bytes=120586240 * 1024,
    swap_used_bytes=0,
    cpu_busy_s=(200000 + 1000 + 50000 + 700 + 300) / 100,
    cpu_stolen_s=0.0,
    fan_rpm={"pwm_tach": 1786.0},
    boot_id="5d3b6ac1-8f1e-4a57-9c1c-000000000004",
)

RAPL_RANGE = 262143328850
X86 = BoardState(
    model="12th Gen Intel(R) Core(TM) i7-12700",
    release="Debian GNU/Linux 12 (bookworm)",
    kernel="6.1.0-25-amd64",
    power_mode="balanced",
    governors={"policy0": "powersave", "policy2": "powersave", "policy16": "powersave"},
    clocks_mhz={"cpu0": 2100.0, "cpu2": 3412.345, "cpu16": 800.0},
    clock_limits_mhz={"cpu0": 4800.0, "cpu2": 4900.0, "cpu16": 3600.0},
    lowest_clocks_mhz={"cpu0": 800.0, "cpu2": 800.0, "cpu16": 800.0},
    temperatures_c={"acpitz": 27.8, "coretemp Package id 0": 46.0, "x86_pkg_temp": 46.0},
    throttle_counts={"package-0": 4},
    energy_uj={
        "package-0": 261900000000,
        "package-0/core": 84123456789,
        "package-0/uncore": 1234567,
        "psys": 99000000000,
    },
    energy_range_uj=dict.fromkeys(("package-0", "package-0/core", "package-0/uncore", "psys"), RAPL_RANGE),
    memory_available_bytes=27262976 * 1024,
    swap_used_bytes=(1000448 - 999424) * 1024,
    cpu_busy_s=(500000 + 1000 + 100000 + 4000) / 100,
    cpu_stolen_s=2.5,
    fan_rpm={"nct6798 fan1": 0.0, "nct6798 fan2": 912.0},
    boot_id="5d3b6ac1-8f1e-4a57-9c1c-000000000005",
)


@pytest.mark.parametrize(
    ("name", "expected"), [("agx-orin", AGX_ORIN), ("orin-nx", ORIN_NX), ("thor", THOR), ("x86", X86)]
)
def test_the_whole_state_of_a_board(tmp_path: Path, name: str, expected: BoardState):
    board = Board(lay_out(name, tmp_path), own=(MEASURED,))
    assert board.state() == expected


def test_a_hot_board_in_swap(tmp_path: Path):
    state = Board(lay_out("orin-nano", tmp_path)).state()
    assert state.throttling == ("cpu-throttle-alert", "gpu-throttle-alert")
    assert (state.power_mode, state.swap_used_bytes) == ("2 MAXN_SUPER", 1950720 * 1024)
    assert "memory" not in state.clocks_mhz and state.clock_limits_mhz["memory"] == 3199.0
    assert state.over_current_events == {"oc1": 0, "oc2": 7, "oc3": 27390}


@pytest.mark.parametrize("name", NAMES)
def test_indices_of_sensors_mean_nothing(tmp_path: Path, name: str):
    """They change at every boot: here the order is turned round."""
    root = lay_out(name, tmp_path)
    before = Board(root).state()
    for kind, prefix in (("thermal", "thermal_zone"), ("thermal", "cooling_device"), ("hwmon", "hwmon")):
        folders = sorted((root / "sys/class" / kind).glob(f"{prefix}*"))
        for index, folder in enumerate(reversed(folders)):
            folder.rename(folder.with_name(f"{prefix}{index + 40}"))
    after = Board(root).state()
    assert after == before


@pytest.mark.parametrize("name", NAMES)
def test_a_quick_state_holds_part_of_the_whole_one(tmp_path: Path, name: str):
    board = Board(lay_out(name, tmp_path))
    whole = board.state()
    part = BoardState(throttling=whole.throttling, rails_mw=whole.rails_mw, energy_uj=whole.energy_uj)
    assert board.quick_state() == part
    assert board.has_rails == (name != "x86")


@pytest.mark.parametrize("name", NAMES)
def test_a_state_survives_a_file(tmp_path: Path, name: str):
    state = Board(lay_out(name, tmp_path)).state()
    assert BoardState.from_dict(json.loads(json.dumps(asdict(state)))) == state


def test_processes_are_told_by_what_they_took_since_the_first_look(tmp_path: Path):
    root = lay_out("agx-orin", tmp_path)
    board = Board(root, own=(MEASURED,))
    before = board.state()
    assert before.busiest == {}  # Xorg has taken 30 s since the start, but none of it since anybody looked
    take(root, 1401, 250)
    take(root, 77, 30)
    take(root, 4720, 1000)
    take(root, 4711, 100)
    after = board.state()
    assert after.busiest == pytest.approx({"Xorg 1401": 2.5, "[kworker/3:1-events] 77": 0.3})
    assert after.cpu_own_s == pytest.approx(AGX_ORIN.cpu_own_s + 11)  # type: ignore[operator]


def test_what_a_process_took_is_told_after_its_end_too(tmp_path: Path):
    root = lay_out("agx-orin", tmp_path)
    board = Board(root, own=(MEASURED,))
    board.state()
    start_process(root, 5000, "backup) (2", parent=1, ticks=70)
    assert board.state().busiest == pytest.approx({"backup) (2 5000": 0.7})
    (root / "proc/5000/stat").unlink()
    assert board.state().busiest == pytest.approx({"backup) (2 5000": 0.7})
    start_process(root, 5000, "backup) (2", parent=1, ticks=20, start=99999)  # the same number, another process
    assert board.state().busiest["backup) (2 5000"] == pytest.approx(0.9)


def test_what_the_measurement_started_stays_its_own(tmp_path: Path):
    root = lay_out("agx-orin", tmp_path)
    board = Board(root, own=(MEASURED,))
    start_process(root, 5001, "server", parent=4720, ticks=10)
    own = board.state().cpu_own_s
    assert own is not None
    start_process(root, 5001, "server", parent=1, ticks=110)  # its parent ended: init took it over
    state = board.state()
    assert state.cpu_own_s == pytest.approx(own + 1)
    assert state.busiest == {}


def test_only_the_ten_largest_are_told(tmp_path: Path):
    root = lay_out("agx-orin", tmp_path)
    board = Board(root)
    board.state()
    for number in range(1, 31):
        start_process(root, 6000 + number, "p", parent=1, ticks=number)
    assert list(board.state().busiest.values()) == [number / 100 for number in range(30, 20, -1)]


def test_this_process_is_its_own_and_what_it_takes_is_seen():
    board = Board()
    before = board.state().cpu_own_s
    assert before is not None
    began = os.times()
    while os.times().user + os.times().system < began.user + began.system + 0.1:
        pass
    after = board.state().cpu_own_s
    assert after is not None and after - before >= 0.08
    assert not any(name.endswith(f" {os.getpid()}") for name in board.state().busiest)


def test_without_processes_only_what_is_about_them_is_missing(tmp_path: Path):
    board = Board(lay_out("agx-orin", tmp_path), own=(MEASURED,))
    whole = board.state()
    assert board.state(processes=False) == replace(whole, cpu_own_s=None, busiest={})


def test_a_computer_that_says_nothing(tmp_path: Path):
    assert Board(tmp_path).state() == BoardState()
    assert not Board(tmp_path).has_rails


@pytest.mark.parametrize("content", ["", "cpu", "cpu 1 2 x 4 5 6 7 8", "cpu0 1 2 3 4 5 6 7 8", "\0" * 100])
def test_damaged_counters_are_not_told(tmp_path: Path, content: str):
    root = lay_out("agx-orin", tmp_path)
    (root / "proc/stat").write_text(content)
    (root / "proc/1401/stat").write_text(content)
    (root / "proc/meminfo").write_text(content)
    (root / "var/lib/nvpmodel/status").write_text(content)
    state = Board(root).state()
    assert (state.cpu_busy_s, state.memory_available_bytes, state.swap_used_bytes) == (None, None, None)
    assert state.power_mode == ""


def test_a_mode_without_a_name_keeps_its_number(tmp_path: Path):
    root = lay_out("agx-orin", tmp_path)
    (root / "var/lib/nvpmodel/status").write_text("pmode:0009 fmode:quiet\n")
    assert Board(root).state().power_mode == "9"


def take(root: Path, process: int, ticks: int) -> None:
    """Lets a recorded process have taken more user time."""
    file = root / f"proc/{process}/stat"
    head, _, tail = file.read_text().rpartition(")")
    words = tail.split()
    words[11] = str(int(words[11]) + ticks)
    file.write_text(f"{head}) {' '.join(words)}\n")


def start_process(root: Path, process: int, name: str, parent: int, ticks: int, start: int = 95000) -> None:
    file = root / f"proc/{process}/stat"
    file.parent.mkdir(exist_ok=True)
    zeros = " 0" * 20
    file.write_text(f"{process} ({name}) R {parent} 1 1 0 -1 4194304 0 0 0 0 {ticks} 0 0 0 20 0 1 0 {start}{zeros}\n")
