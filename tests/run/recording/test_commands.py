"""The commands for recordings, from the command line to the exit code."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import change_bit, offset_of

from pi0_edge.cli import main
from pi0_edge.policy import Policy
from pi0_edge.run.recording import RunRecording
from pi0_edge.run.recording.other_policy import compare_other


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON and what was printed for people."""
    code = main([*map(str, arguments), "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out.splitlines()[-1]), said.err


def test_info_shows_what_is_in_it(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, result, said = run(capsys, "recording", "info", run_file)
    assert code == 0 and result["robot"] == "aloha_sim" and result["closed"] and result["lossless"]
    assert result["ticks"] == len(RunRecording(run_file).ticks) and result["damage"] == []
    assert {event["name"] for event in result["events"]} == {"armed", "label", "disarmed"}
    assert "success" in said


def test_info_of_a_damaged_file_fails_and_names_the_bytes(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copy(run_file, tmp_path / "run.mcap"))
    tick = RunRecording(path).ticks[60]
    change_bit(path, tick.place.offset + 40, mend_crc=False)
    code, result, said = run(capsys, "recording", "info", path)
    assert code == 1 and "DAMAGED: bytes" in said
    (damage,) = result["damage"]
    assert damage["offset"] <= tick.place.offset < damage["offset"] + damage["size"] and not damage["cut"]


def test_recover_and_export(run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = tmp_path / "run.mcap.partial"
    content = run_file.read_bytes()
    cut.write_bytes(content[: len(content) * 19 // 20])
    code, result, said = run(capsys, "recording", "recover", cut, tmp_path / "run.mcap")
    assert code == 0 and result["messages"]["/ticks"] > 50 and "left out" in said
    code, result, _ = run(capsys, "recording", "export", tmp_path / "run.mcap", "--output", tmp_path / "dataset")
    assert code == 0 and result["episodes"] == 1 and result["frames"] > 50


def test_replay_finds_the_policy_by_itself_and_says_that_all_is_the_same(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result, said = run(capsys, "replay", run_file, "--threads", 1)
    assert code == 0 and result["exact"], said
    assert result["chunks"]["computed"] == result["chunks"]["chunks"] and "bit-exact" in said


def test_replay_of_a_changed_file_fails_at_the_place(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copy(run_file, tmp_path / "run.mcap"))
    tick = RunRecording(path).ticks[50]
    change_bit(path, offset_of(path, tick.place, struct.pack("<f", tick.message.executed[2])))
    code, result, said = run(capsys, "replay", path, "--ticks-only")
    assert code == 1 and not result["exact"] and "DIFFERS" in said
    difference = result["ticks"]["difference"]
    assert difference["offset"] == tick.place.offset and "left_elbow" in difference["where"]
    code, result, _ = run(capsys, "replay", run_file, "--ticks-only")
    assert code == 0 and result["ticks"]["difference"] is None


def test_another_policy_is_compared_in_the_units_of_the_gate(
    run_file: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "other.html"
    arguments = ("--policy", checkpoint, "--engine", "cpu", "--scheme", "int8-w8a8", "--report", page)
    code, result, said = run(capsys, "replay", run_file, *arguments)
    assert code == 0 and "farthest: chunk" in said
    assert all(0.9 < chunk["cosine"] < 1 for chunk in result["chunks"])
    assert "<svg" in page.read_text() and "left_waist" in page.read_text()


def test_the_same_policy_is_no_other_policy(run_file: Path, policy: Policy) -> None:
    report = compare_other(RunRecording(run_file), policy)
    assert max(chunk.largest for chunk in report.chunks) == 0
    assert report.worst().cosine > 1 - 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--report", "x.html"), "give one with --policy"),
        (("--policy", "x", "--ticks-only"), "leave --checkpoint"),
        (("--checkpoint", "/nowhere"), "/nowhere"),
    ],
)
def test_wrong_options_are_refused_in_words(
    run_file: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(run_file), *arguments]) == 2
    assert message in capsys.readouterr().err
