"""Programs on the disk: found again whole, or written again; the package is not needed."""

import os
import stat
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
