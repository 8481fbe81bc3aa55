"""What a benchmark keeps: a line that was cut off is dropped, and what was made otherwise is refused in words."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from benchmarks.kept import KeptLines, checkpoint_hash, folder_hash, keep_budget
from pi0_edge.errors import ConfigError
from pi0_edge.policy import Policy
from pi0_edge.shipped import shipped_checkpoint


@dataclass(frozen=True)
class Line:
    """One line."""

    name: str
    count: int


def test_a_half_written_last_line_is_dropped_and_its_place_taken(tmp_path: Path):
    file = tmp_path / "kept.jsonl"
    KeptLines(file).add(asdict(Line("a", 1)))
    with file.open("a") as opened:
        opened.write('{"name": "b", "cou')
    again = KeptLines(file)
    assert again.read(Line) == [Line("a", 1)]
    again.add(asdict(Line("c", 3)))
    assert KeptLines(file).read(Line) == [Line("a", 1), Line("c", 3)]


@pytest.mark.parametrize("line", [{"name": "a"}, {"name": "a", "count": 1, "more": 2}])
def test_lines_of_another_version_are_refused(tmp_path: Path, line: dict[str, object]):
    file = tmp_path / "kept.jsonl"
    file.write_text(json.dumps(line) + "\n")
    with pytest.raises(ConfigError, match=r"written by another version of this benchmark .*; name another file"):
        KeptLines(file).read(Line)


def test_a_budget_is_written_once_and_another_one_refused(tmp_path: Path):
    file = tmp_path / "new" / "budget.json"
    keep_budget(file, {"steps": 5, "start": None})
    written = file.read_bytes()
    keep_budget(file, {"steps": 5, "start": None})
    with pytest.raises(ConfigError, match=r"'steps': 5.*asked for are .*'steps': 6"):
        keep_budget(file, {"steps": 6, "start": None})
    assert file.read_bytes() == written


def test_hashes_are_of_contents(tmp_path: Path):
    assert checkpoint_hash(shipped_checkpoint()) == Policy.load(shipped_checkpoint()).checkpoint_sha256
    for name, content in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "in" / "file").write_text(content)
    first, same, other = (folder_hash(tmp_path / name) for name in "abc")
    assert first == same != other
