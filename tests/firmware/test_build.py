"""The firmware builds without a warning, its C tests pass under sanitizers, and generated files are current."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import pytest
from firmware_library import FIRMWARE, ROOT, bench, load_library, make, require

from firmware_bridge.firmware import generate_joints
from firmware_bridge.firmware.board_sizes import BOARDS, Board, CallGraph, SizesError, measure
from firmware_bridge.firmware.joint_table import JointTable, float32, load_joint_table
from pi0_edge.errors import ConfigError

pytestmark = pytest.mark.real_time  # it builds the image that the emulated boards run

TABLES = generate_joints.shipped_tables()
BENCH = ROOT / "tests" / "firmware" / "bench_robot.yaml"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_the_images_build_and_fit(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    require("make", "arm-none-eabi-gcc", "python3")
    result = make(board.name, "ROBOT=aloha")
    assert result.returncode == 0, result.stderr
    assert "warning" not in result.stderr
    sizes = measure(board)
    with capsys.disabled():
        print(f"\n{board.title}: {sizes.flash} bytes of flash, {sizes.ram} of RAM, at most {sizes.stack} of stack")
    assert sizes.flash < board.flash * 1024
    assert sizes.ram + 4096 < board.ram * 1024
    assert 1024 < sizes.stack < 4096


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_the_images_have_no_heap_and_no_doubles(board: Board) -> None:
    require("make", "arm-none-eabi-nm", "python3")
    assert make(board.name, "ROBOT=aloha").returncode == 0
    image = FIRMWARE / "build" / board.name / "firmware.elf"
    symbols = subprocess.run(["arm-none-eabi-nm", str(image)], capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1] for line in symbols.splitlines()}
    assert not names & {"malloc", "free", "_sbrk", "printf", "__aeabi_dadd", "__aeabi_dmul", "__aeabi_f2d"}


def test_a_function_that_calls_itself_has_no_bounded_stack() -> None:
    graph = CallGraph({"a": 8, "b": 16, "c": 4}, {"a": {"b", "c"}, "b": {"c"}, "c": set()})
    assert graph.deepest("a") == 28
    graph.calls["c"] = {"a"}
    with pytest.raises(SizesError, match="calls itself"):
        graph.deepest("a")


def test_every_robot_builds() -> None:
    require("make", "gcc")
    for table in TABLES:
        result = make("host", f"ROBOT={table.robot}", "BUILD=build/robots")
        assert result.returncode == 0, result.stderr


def test_the_unit_tests_in_c_pass_under_sanitizers() -> None:
    require("make", "gcc")
    if not Path("/usr/include/cmocka.h").exists():
        pytest.skip("cmocka is not installed (package libcmocka-dev)")
    result = make("test")
    assert result.returncode == 0, result.stdout + result.stderr
    passed = [int(count) for count in re.findall(r"PASSED  \] (\d+) test", result.stdout + result.stderr)]
    assert len(passed) == len(list((ROOT / "tests" / "firmware").glob("test_*.c"))) and sum(passed) >= 39


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.robot)
def test_joint_tables_are_current(table: JointTable) -> None:
    assert generate_joints.is_current(table), "run: python -m firmware_bridge.firmware.generate_joints"


def test_python_and_c_compute_the_same_hash_of_the_table() -> None:
    library = load_library()
    table = ctypes.addressof(ctypes.c_char.in_dll(library, "joint_table"))
    assert library.joint_table_hash(ctypes.c_void_p(table)) == bench().limits_hash


def test_every_change_of_the_table_changes_its_hash(tmp_path: Path) -> None:
    text = BENCH.read_text()
    hashes = {bench().limits_hash}
    for old, new in [
        ("8.0", "8.5"),
        ("250.0", "251.0"),
        ("1.25664", "1.25"),
        ("left_waist", "waist"),
        ("1.16", "1.17"),
    ]:
        changed = tmp_path / "changed.yaml"
        changed.write_text(text.replace(old, new, 1))
        hashes.add(load_joint_table(changed).limits_hash)
    assert len(hashes) == 6


def test_aloha_has_the_joints_of_its_actions() -> None:
    aloha = load_joint_table("aloha")
    names = [joint.name for joint in aloha.joints]
    assert len(names) == 14
    assert names[6] == "left_gripper" and names[7] == "right_waist"
    assert aloha.joints[1].home == float32(-0.96)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("velocity: 8.0", "velocity: -8.0", "above zero"),
        ("velocity: 8.0", "velocity: fast", "finite number"),
        ("velocity: 8.0, ", "", "lacks velocity"),
        ("position: [-3.14158, 3.14158]", "position: [3.2, -3.2]", "minimum < maximum"),
        ("position: [-3.14158, 3.14158]", "position: [-3.5, 3.5]", "16 bits"),
        ("home: 0.0", "home: 9.0", "expected a position from"),
        ("acceleration: 250.0", "acceleration: 1.0", "stopping takes"),
        ("left_shoulder", "left_waist", "name of 2 joints"),
        ("unit: rad", "unit: degrees", "degrees"),
        ("joints:", "parts:", "'parts' is not a field of a robot; expected .*joints"),
    ],
)
def test_a_wrong_table_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(BENCH.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        load_joint_table(wrong)
