"""The table of faults: what is kept is counted, and what went wrong is seen. The faults themselves need a container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import flash_faults
from benchmarks.flash_fault_cases import CASES, Case
from benchmarks.flash_faults import main, read_samples, table


def sample(fault: str, seconds: float | None, **others: Any) -> dict[str, Any]:
    return {"fault": fault, "at": 0, "load": 1.0, "runs": 2, "seconds": seconds, "gap_s": None, "took_s": 1.0, **others}


def row(text: str, case: Case) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {case.fault} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_says_median_and_worst_of_what_was_right_and_how_many_were_wrong() -> None:
    case = CASES[0]
    samples = [sample(case.name, seconds) for seconds in (3.0, 1.0, 2.0)]
    samples.append({"fault": case.name, "at": 0, "load": 5.0, "took_s": 1.0, "wrong": "release 3 is committed"})
    text = table(samples, {"cores": "2"}, "command")
    assert row(text, case) == [case.fault, case.runs, case.since, "4", "2.0", "3.0", "1"]
    assert "load: 1.0 in the median, 1.0 to 5.0" in text


def test_no_interruption_and_no_answer_are_not_the_same() -> None:
    link, down = (next(case for case in CASES if case.name == name) for name in ("link", "both-bad"))
    text = table([sample("link", 0.0, gap_s=0.31), sample("both-bad", None)], {}, "command")
    assert row(text, link)[4:6] == ["0", "0"]
    assert row(text, down)[4:6] == ["–", "–"]
    assert "longest wait between two answers was 0.31 s" in text


def test_the_names_of_the_faults_are_different() -> None:
    assert len({case.name for case in CASES}) == len({case.fault for case in CASES}) == len(CASES)


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    whole = json.dumps(sample("link", 0.0))
    (tmp_path / "samples").write_text(f"{whole}\n{whole}\n{whole[:20]}")
    assert len(read_samples(tmp_path / "samples")) == 2
    assert read_samples(tmp_path / "none") == []


@pytest.mark.parametrize("wrong", [{}, {"wrong": "release 1 is committed"}])
def test_a_run_that_goes_on_keeps_what_there_is_and_fails_for_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str]
) -> None:
    samples, written = tmp_path / "samples", tmp_path / "table.md"
    monkeypatch.setattr(flash_faults, "SAMPLES", samples)
    monkeypatch.setattr(flash_faults, "TABLE", written)
    monkeypatch.setattr(flash_faults, "why_no_container", lambda: None)
    samples.write_text("".join(json.dumps(sample(case.name, 1.0) | wrong) + "\n" for case in CASES))
    before = samples.read_text()
    assert main(["--times", "1", "--resume"]) == (1 if wrong else 0)
    assert samples.read_text() == before
    assert written.read_text().count("| 1 |") >= len(CASES)
