"""The table of the schemes for Orin: what was kept is counted in pairs, and nothing is run twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.orin_schemes import HEADER, SCHEMES, Kept, command_of, listed, row, table


def episode(scheme: str, seed: int, success: bool, ticks: int) -> dict[str, object]:
    return {"scheme": scheme, "seed": seed, "success": success, "ticks": ticks, "best_reward": 4.0}


def kept(folder: Path) -> Kept:
    made = Kept(folder / "kept.jsonl")
    gate = {
        "passed": False,
        "chunks": 300,
        "mean": [0.9991, 0.9992],
        "worst": [0.9951, 0.9952],
        "weights_bytes": 2_500_000,
    }
    made.add({"scheme": "orin", **gate})
    for seed in range(100):
        made.add(episode("fp32", seed, success=True, ticks=200))
    for seed in range(50, 150):  # the first 50 seeds of fp32 are missing here, and the last 50 there
        made.add(episode("orin", seed, success=seed != 60, ticks=210 if seed % 2 else 212))
    return made


def test_only_shared_seeds_are_paired_and_only_joint_successes_timed(tmp_path: Path):
    cells = dict(zip([*HEADER[:5], "worst executed", *HEADER[6:10], "time"], row(kept(tmp_path), "orin"), strict=True))
    assert cells["verdict"] == "**failed**"
    assert cells["bundle"] == "2.50 MB"
    assert cells["success"] == "99 of 100"
    assert cells["against fp32, paired"].startswith("-2.0 (-10.")  # one of the 50 shared seeds
    assert cells["time to success, both succeed"] == f"{(25 * 210 + 24 * 212) / 49 / 50:.3f} s"
    assert cells["time"] == "+0.220 ± 0.006 s"


def test_a_scheme_without_results_has_dashes(tmp_path: Path):
    cells = row(kept(tmp_path), "orin-int8")
    assert cells == ["`orin-int8`", *["–"] * 10]
    assert len(cells) == len(HEADER)


def test_one_joint_success_has_a_time_and_no_interval(tmp_path: Path):
    few = Kept(tmp_path / "few.jsonl")
    for scheme, won in (("fp32", (True, True)), ("orin", (True, False)), ("orin-int8", (False, False))):
        for seed, success in enumerate(won):
            few.add(episode(scheme, seed, success, ticks=200 if scheme == "fp32" else 210))
    assert row(few, "orin")[-2:] == ["4.200 s", "–"]
    assert row(few, "orin-int8")[-2:] == ["–", "–"]


def test_a_run_of_one_scheme_leaves_the_others_in_the_table_and_is_told_as_it_was_asked(tmp_path: Path):
    made = kept(tmp_path)
    made.add(episode("my-mix", 0, success=True, ticks=200))
    schemes = listed(made, ["int8-w8a8"])
    assert schemes == [*SCHEMES, "my-mix", "int8-w8a8"]
    command = command_of(100, ["orin", "orin-int8"])
    assert command == "python -m benchmarks.orin_schemes --episodes 100 --scheme orin --scheme orin-int8"
    assert command_of(200, ()) == "python -m benchmarks.orin_schemes --episodes 200"
    assert "99 of 100" in table(made, schemes, {}, command)


def test_a_line_that_was_cut_off_is_taken_again(tmp_path: Path):
    made = kept(tmp_path)
    file = tmp_path / "kept.jsonl"
    whole = file.read_text()
    file.write_text(whole + '{"scheme": "orin", "se')
    again = Kept(file)
    assert again.lines == made.lines
    again.add(episode("orin", 150, success=True, ticks=1))
    assert [json.loads(line) for line in file.read_text().splitlines()] == again.lines
    assert 150 in Kept(file).rollouts("orin")


@pytest.mark.parametrize("schemes", [("orin",), ("orin", "orin-int8")])
def test_the_table_has_a_row_for_each_and_names_the_command(tmp_path: Path, schemes: tuple[str, ...]):
    text = table(kept(tmp_path), schemes, {"cores": "2"}, "the command")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in rows] == ["fp32", *schemes]
    assert "`the command`" in text
    assert "cores: 2" in text
