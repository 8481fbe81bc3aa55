"""The example without the command line: checkpoint, verdict, bundle, server and chunk, from Python alone."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import torch
from observation_sources import write_npz

from pi0_edge.bundle import open_bundle

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "python" / "quantize_and_serve.py"

torch.set_num_threads(1)


def test_the_example_quantizes_the_shipped_policy_and_serves_its_bundle(tmp_path, capsys):
    recording = write_npz(tmp_path / "recording.npz", 40, prompt="Transfer cube")
    runpy.run_path(str(EXAMPLE))["main"](tmp_path / "bundle", recording)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "orin: passed"
    assert printed[1].startswith("50 actions of 14 joints")
    assert open_bundle(tmp_path / "bundle").gate == "passed"


def test_the_example_has_at_most_30_lines_of_code():
    statements = ast.parse(EXAMPLE.read_text()).body[1:]  # without the docstring
    lines = EXAMPLE.read_text().splitlines()[statements[0].lineno - 1 :]
    assert len([line for line in lines if line.strip()]) <= 30
