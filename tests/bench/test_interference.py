"""Loads beside a bench: they run as long as the context lasts, by name, and what is missing is named."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import psutil
import pytest

from pi0_edge.bench.interference import LOADS, interference
from pi0_edge.errors import BenchError, MissingDependencyError

needs_stress_ng = pytest.mark.skipif(
    shutil.which("stress-ng") is None, reason="stress-ng is not installed: apt-get install stress-ng"
)


def running() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if one.name().startswith("stress-ng")]


@needs_stress_ng
@pytest.mark.real_time
@pytest.mark.parametrize("load", LOADS)
def test_a_load_runs_as_long_as_it_is_asked_for_and_works(load: str):
    with interference([load]) as commands:
        assert commands == (" ".join(("stress-ng", *LOADS[load])),)
        before = sum(sum(one.cpu_times()[:2]) for one in running())
        time.sleep(0.5)
        assert sum(sum(one.cpu_times()[:2]) for one in running()) > before
    assert running() == []


@needs_stress_ng
def test_a_load_ends_with_an_error_too():
    with pytest.raises(RuntimeError), interference(["memory", "network"]):
        assert running()
        raise RuntimeError
    assert running() == []


def test_no_load_needs_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with interference([]) as commands:
        assert commands == ()


def test_what_is_unknown_or_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with (
        pytest.raises(BenchError, match="no load 'gpu'; expected one of cpu, memory, io, network"),
        interference(["gpu"]),
    ):
        pass
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="apt-get install stress-ng"), interference(["cpu"]):
        pass


def test_a_load_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    program = tmp_path / "stress-ng"
    program.write_text("#!/bin/sh\necho no such stressor >&2\nexit 2\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(BenchError, match="ended with 2: no such stressor"), interference(["cpu"]):
        pass
