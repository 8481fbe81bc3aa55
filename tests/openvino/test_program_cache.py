"""Programs on the disk: found again whole, or written again; the package is not needed."""

import os
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pi0_edge.openvino.program_cache import ProgramCache, ProgramKey, default_folder

KEY = ProgramKey("5" * 64, "2026.4.1-22982/release", "attend-2-cameras-20-tokens")
XML, WEIGHTS = b"<net/>", bytes(range(256)) * 5


def write(path: Path) -> None:
    path.write_bytes(XML)
    path.with_suffix(".bin").write_bytes(WEIGHTS)


def test_a_program_that_was_added_is_found(tmp_path: Path):
    cache = ProgramCache(tmp_path / "programs")
    assert cache.find(KEY) is None
    added = cache.add(KEY, write)
    assert cache.find(KEY) == added
    assert (added.read_bytes(), added.with_suffix(".bin").read_bytes()) == (XML, WEIGHTS)
    assert stat.S_IMODE(os.stat(cache.folder).st_mode) == 0o700
    assert sorted(path.name for path in cache.folder.rglob("*") if path.is_file()) == [
        "program.bin",
        "program.xml",
        "sha256",
    ]


@pytest.mark.parametrize(
    "other", [{"network": "6" * 64}, {"version": "2026.5.0"}, {"program": "velocity-2-cameras-20-tokens"}]
)
def test_a_program_of_anything_else_is_another(other: dict, tmp_path: Path):
    cache = ProgramCache(tmp_path)
    cache.add(KEY, write)
    assert cache.find(replace(KEY, **other)) is None


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["program.xml", "program.bin", "sha256"]),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    cut=st.booleans(),
)
def test_damage_of_any_file_is_seen_and_mended(tmp_path_factory, name: str, place: float, bit: int, cut: bool):
    cache = ProgramCache(tmp_path_factory.mktemp("programs"))
    path = cache.add(KEY, write).with_name(name)
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    if cut:
        del content[at:]
    else:
        content[at] ^= 1 << bit
    path.write_bytes(content)
    assert cache.find(KEY) is None
    assert cache.add(KEY, write) == cache.find(KEY)


def test_bytes_do_not_move_from_one_file_to_the_other_unseen(tmp_path: Path):
    cache = ProgramCache(tmp_path)
    path = cache.add(KEY, write)
    path.write_bytes(XML + WEIGHTS[:10])
    path.with_suffix(".bin").write_bytes(WEIGHTS[10:])
    assert cache.find(KEY) is None


def test_what_fails_while_it_is_written_leaves_nothing(tmp_path: Path):
    cache = ProgramCache(tmp_path)

    def half(path: Path) -> None:
        path.write_bytes(XML)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        cache.add(KEY, half)
    assert cache.find(KEY) is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def damage(path: Path) -> None:
    path.with_suffix(".bin").write_bytes(WEIGHTS[1:])


def test_a_slow_look_does_not_take_the_program_of_another_process(tmp_path: Path, monkeypatch):
    """A finds a program damaged; before it acts, B has put a whole one there and is about to read it."""
    slow, fast = ProgramCache(tmp_path), ProgramCache(tmp_path)
    place = slow.add(KEY, write).parent
    damage(place / "program.xml")
    looks: list[bool] = []

    def find_late(key: ProgramKey) -> None:
        looks.append(True)
        fast.add(key, write)

    removed = shutil.rmtree

    def watched(path: Path, ignore_errors: bool) -> None:
        assert fast.find(KEY) is not None or path != place
        removed(path, ignore_errors=ignore_errors)
        if looks:
            assert fast.find(KEY) is not None, f"there is no program after {path} was removed"

    monkeypatch.setattr(slow, "find", find_late)
    monkeypatch.setattr("pi0_edge.openvino.program_cache.shutil.rmtree", watched)
    assert slow.add(KEY, write) == fast.find(KEY)
    assert looks and not list(tmp_path.rglob("tmp*"))


def test_where_folders_cannot_be_exchanged_a_damaged_program_is_replaced_in_two_steps(tmp_path: Path, monkeypatch):
    cache = ProgramCache(tmp_path)
    damage(cache.add(KEY, write))
    monkeypatch.setattr("pi0_edge.openvino.program_cache.exchange_synced", lambda first, second: False)
    assert cache.add(KEY, write) == cache.find(KEY) is not None
    assert not list(tmp_path.rglob("tmp*"))


ADDING = """
import sys
from pathlib import Path
from pi0_edge.openvino.program_cache import ProgramCache, ProgramKey
cache = ProgramCache(Path(sys.argv[1]))
def write(path):
    path.write_bytes(b"<net/>")
    path.with_suffix(".bin").write_bytes(b"w" * 999)
print("ready", flush=True)
sys.stdin.readline()
for shape in range(40):
    key = ProgramKey("5" * 64, "2026", f"attend-{shape}")
    path = cache.add(key, write)
    assert path.read_bytes() == b"<net/>" and cache.find(key) == path
"""


def test_processes_that_find_the_same_damaged_programs_at_once_all_get_whole_ones(tmp_path: Path):
    cache = ProgramCache(tmp_path)
    for shape in range(0, 40, 2):  # the others are missing
        damage(cache.add(ProgramKey("5" * 64, "2026", f"attend-{shape}"), write))
    processes = [
        subprocess.Popen([sys.executable, "-c", ADDING, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert len(list(tmp_path.rglob("program.xml"))) == 40 and not list(tmp_path.rglob("tmp*"))


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path):
    cache = ProgramCache(tmp_path)
    beside = cache.add(replace(KEY, version="older"), write).parents[1]
    fresh, stale = beside / "tmpfresh", beside / "tmpstale"
    for folder in (fresh, stale):
        folder.mkdir()
        (folder / "program.bin").write_bytes(WEIGHTS)
    for old in (stale, *beside.glob("attend*")):
        os.utime(old, (0, time.time() - 25 * 3600))
    cache.add(KEY, write)
    assert not stale.exists() and fresh.exists()
    assert cache.find(replace(KEY, version="older")) is not None


def test_another_process_that_was_faster_keeps_its_program(tmp_path: Path):
    cache = ProgramCache(tmp_path)

    def slow(path: Path) -> None:
        cache.add(KEY, write)
        write(path)

    added = cache.add(KEY, slow)
    assert cache.find(KEY) == added
    assert len(list(tmp_path.rglob("program.xml"))) == 1


def test_the_cache_is_where_caches_are(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "pi0-edge" / "openvino"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "pi0-edge" / "openvino"
