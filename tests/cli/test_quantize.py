"""`pi0-edge quantize` from frames to bundle, on a policy with random weights: it always ends in a verdict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from cli_runner import Ran, run
from policy_builders import DIMS, PROMPT, write_checkpoint

from pi0_edge.bundle import open_bundle
from pi0_edge.errors import BundleError
from pi0_edge.policy import Policy
from pi0_edge.quant import SCHEMES, Scheme

pytestmark = pytest.mark.system

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("command") / "checkpoint")


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """Six episodes of twelve frames, as `serve --record` leaves them: a folder each."""
    root = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    for episode in range(6):
        folder = root / f"episode_{episode}"
        folder.mkdir()
        images = rng.integers(0, 256, (12, 40, 60, 3), np.uint8)
        states = rng.normal(0, 0.3, (12, DIMS)).astype(np.float32)
        np.savez(folder / "frames.npz", **{"images.top": images, "state": states, "prompt": np.array(PROMPT)})
    return root


@pytest.fixture
def quantize(checkpoint, recording):
    def command(*options: object) -> Ran:
        frames = ["--dataset", recording, "--held-out", "8", "--draws", "3", "--calibration-frames", "16"]
        return run("quantize", "--checkpoint", checkpoint, *frames, "--executed", "4", *options, "--json")

    return command


def test_a_passed_gate_gives_a_bundle_that_is_served(quantize, tmp_path):
    ran = quantize("--scheme", "int8-w8a8", "--output", tmp_path / "bundle", "--report", tmp_path / "gate.html")
    assert ran.code == 0, ran.err
    gate = ran.result["gate"]
    assert gate["verdict"]["passed"] is True
    assert (gate["observations"], gate["draws"], len(gate["cosine_whole"])) == (8, 3, 24)
    assert len(gate["joints"]) == DIMS
    assert len(gate["inner"]["keys"]) == 2 and len(gate["inner"]["velocities"]) == 10
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.gate is not None
    assert bundle.manifest.gate.report["verdict"] == gate["verdict"]
    assert Policy.from_bundle(tmp_path / "bundle").engine.scheme == "int8-w8a8"
    page = (tmp_path / "gate.html").read_text()
    assert page == (tmp_path / "bundle" / "gate_report.html").read_text()
    assert "PASSED" in page
    assert "PASS: int8-w8a8 may be served" in ran.err


def test_the_same_inputs_give_the_same_bundle(quantize, tmp_path):
    for name in ("one", "two"):
        assert quantize("--scheme", "int8-w8a8", "--output", tmp_path / name).code == 0
    one, two = (sorted(path.read_bytes() for path in (tmp_path / name).iterdir()) for name in ("one", "two"))
    assert one == two


def test_a_failed_gate_exits_with_1_and_its_bundle_is_refused(quantize, tmp_path):
    strict = ["--scheme", "int4-per-tensor", "--cosine-worst", "0.9999"]
    ran = quantize(*strict, "--output", tmp_path / "bundle", "--report", tmp_path / "gate.html")
    assert ran.code == 1
    verdict = ran.result["gate"]["verdict"]
    assert verdict["passed"] is False
    assert any("worst cosine of the whole chunk" in reason and "episode" in reason for reason in verdict["reasons"])
    assert "FAIL: int4-per-tensor must not move a robot" in ran.err
    assert "FAILED" in (tmp_path / "gate.html").read_text()
    with pytest.raises(BundleError, match="gate failed"):
        Policy.from_bundle(tmp_path / "bundle")
    assert Policy.from_bundle(tmp_path / "bundle", accept_failed_gate=True).overrides


def test_a_scheme_that_needs_calibration_is_calibrated_on_the_other_half(quantize, tmp_path):
    ran = quantize("--scheme", "int8-w8a8-static", "--output", tmp_path / "bundle")
    assert ran.code in (0, 1)
    source = open_bundle(tmp_path / "bundle").manifest.calibration
    assert source is not None
    assert (source["kind"], source["frames"]) == ("recording", 16)


@pytest.mark.parametrize("name", [name for name in SCHEMES if not name.startswith("bnb")])
def test_every_scheme_ends_in_a_verdict(quantize, name):
    ran = quantize("--scheme", name, "--held-out", "4", "--draws", "1")
    assert ran.code == 1  # four chunks are too few for any verdict but this one
    (reason,) = ran.result["gate"]["verdict"]["reasons"]
    assert reason == "number of chunks 4 is below 20"


def test_thresholds_decide(quantize):
    assert quantize("--scheme", "int8-w8a8", "--cosine-mean", "0.9999999").code == 1
    assert quantize("--scheme", "int4-per-tensor", "--cosine-mean", "-1", "--cosine-worst", "-1").code == 0


@pytest.mark.slow
def test_scan_and_search_end_in_a_scheme_that_the_command_takes(quantize, tmp_path):
    options = ["--scheme", "int8-w8a16", "--search", tmp_path / "mix.yaml", "--scan-frames", "4", "--scan-by", "part"]
    ran = quantize(*options, "--level", "int4-per-tensor", "--report", tmp_path / "gate.html")
    assert ran.code == 0, ran.err
    found = Scheme.from_dict(yaml.safe_load((tmp_path / "mix.yaml").read_text()))
    assert ran.result["scheme"] == json.loads(json.dumps(found.to_dict()))
    assert {choice["level"] for choice in ran.result["ranking"]} == {"int8-w8a16", "int4-per-tensor"}
    damages = [choice["damage"] for choice in ran.result["ranking"]]
    assert damages == sorted(damages, reverse=True)
    assert "Sensitivity" in (tmp_path / "gate.html").read_text()
    again = quantize("--scheme", tmp_path / "mix.yaml")
    assert again.code == 0
    assert again.result["gate"] == ran.result["gate"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--report", "gate.pdf"], "ends in .html"),
        (["--report", "nowhere/gate.html"], "does not exist"),
        (["--search", "mix.json"], "ends in .yaml"),
        (["--scheme", "bnb-nf4", "--output", "bundle"], "a bundle cannot hold"),
        (["--scheme", "absent.yaml"], "cannot read the scheme absent.yaml"),
        (["--cosine-mean", "1.5"], "cosine_mean is 1.5"),
        (["--calibration", "absent"], "absent"),
        (["--held-out", "2"], "expected at least"),
        (["--scheme", "fp32", "--scan"], "fp32 quantize nothing here"),
    ],
)
def test_impossible_options_are_refused_in_one_line(quantize, options, message):
    ran = quantize(*options)
    assert ran.code == 2
    assert message in ran.result["error"]


def test_cut_prompts_and_left_out_frames_stand_in_bundle_and_report(quantize, recording, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(recording, broken)
    for file in broken.glob("*/frames.npz"):
        content = dict(np.load(file))
        content["state"][:3, 4] = 57.3
        np.savez(file, **content)
    files = ["--dataset", broken, "--held-out", 12, "--output", tmp_path / "bundle", "--report", tmp_path / "gate.html"]
    refused = quantize("--scheme", "int8-w8a8", *files, "--skip-unfit", 1)
    assert refused.code == 2 and "more unfit frames than" in refused.err
    ran = quantize("--scheme", "int8-w8a8", *files, "--skip-unfit", 40, "--truncate-prompts")
    assert ran.code == 0, ran.err
    assert ran.result["left_out"] and all("57.3" in frame for frame in ran.result["left_out"])
    assert "left out" in (tmp_path / "gate.html").read_text()
    assert open_bundle(tmp_path / "bundle").processor().settings.truncate_prompts is True
