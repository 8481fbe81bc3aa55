"""The script that proves things on a GPU: what can be known of it without one."""

import importlib.util

import pytest
import torch

from benchmarks.gpu_proof import STEPS, Step, main, run


def test_the_dry_run_lists_every_step_and_stays_below_25_minutes(capsys: pytest.CaptureFixture[str]):
    assert main(["--dry-run"]) == 0
    said = capsys.readouterr().out
    assert all(f"python -m {step.module[0]}" in said for step in STEPS)
    assert sum(step.minutes for step in STEPS) < 25


def test_every_step_names_a_module_that_exists():
    missing = [step.module[0] for step in STEPS if importlib.util.find_spec(step.module[0]) is None]
    assert missing == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err


def test_a_step_that_fails_or_hangs_is_reported_as_that(tmp_path, monkeypatch: pytest.MonkeyPatch):
    assert run(Step("works", "", ("json.tool", "--help"), 1), tmp_path)[0]
    passed, said = run(Step("fails", "", ("no_such_module_at_all",), 1), tmp_path)
    assert not passed and "FAILED with exit code 1" in said
    passed, said = run(Step("hangs", "", ("http.server", "0", "--bind", "127.0.0.1"), 0.02), tmp_path)
    assert not passed and "longer than 0.02 minutes" in said
