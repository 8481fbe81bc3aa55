"""`quantize` and `calibrate` as functions: what they return, report and refuse, on a policy with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from observation_sources import write_npz
from policy_builders import observation, write_checkpoint

from pi0_edge.errors import BundleError, ConfigError
from pi0_edge.policy import Policy
from pi0_edge.processing import load_robot
from pi0_edge.progress import Progress
from pi0_edge.ptq.calibration import calibrate
from pi0_edge.ptq.pipeline import QuantizedPolicy, ScanOptions, quantize
from pi0_edge.ptq.sources import open_source
from pi0_edge.ptq.verdict import Thresholds
from pi0_edge.quant import INT8_W8A8
from pi0_edge.quant.scheme_files import load_scheme

torch.set_num_threads(1)

FEW: dict[str, Any] = {"calibration_frames": 16, "held_out": 8}
THRESHOLDS = Thresholds(executed=4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("pipeline") / "checkpoint")


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    return write_npz(tmp_path_factory.mktemp("recording") / "robot.npz", 40, prompt="Transfer cube")


@pytest.fixture(scope="module")
def quantized(checkpoint, recording) -> QuantizedPolicy:
    return quantize(str(checkpoint), "int8-w8a8", str(recording), thresholds=THRESHOLDS, **FEW)


def test_the_policy_is_ready_and_its_bundle_gives_the_same_chunk(quantized, tmp_path):
    assert quantized.passed and quantized.verdict is quantized.gate.verdict
    assert quantized.scheme == INT8_W8A8 and quantized.calibration is None and quantized.ranking == ()
    assert dict(quantized.facts)["robot"] == "aloha_sim"
    instructions = quantized.policy.engine.instructions
    assert quantized.gate.to_dict()["instructions"] == quantized.gate.instructions == instructions
    assert dict(quantized.facts)["instructions"].startswith(instructions)
    quantized.write_bundle(str(tmp_path / "bundle"))
    quantized.write_report(str(tmp_path / "gate.html"))
    assert (tmp_path / "gate.html").read_text() == (tmp_path / "bundle" / "gate_report.html").read_text()
    ours, bundled = (
        policy.infer(observation(), 3) for policy in (quantized.policy, Policy.from_bundle(tmp_path / "bundle"))
    )
    assert (ours.actions == bundled.actions).all()
    with pytest.raises(BundleError, match="holds a bundle already"):
        quantized.write_bundle(tmp_path / "bundle")
    quantized.write_bundle(tmp_path / "bundle", replace=True)
    with pytest.raises(ConfigError, match=r"path .*gate.pdf: expected a name that ends in .html"):
        quantized.write_report(tmp_path / "gate.pdf")


def test_a_scheme_and_an_open_source_are_taken_as_they_are(quantized, checkpoint, recording):
    source = open_source(recording, load_robot("aloha_sim"))
    again = quantize(checkpoint, INT8_W8A8, source, thresholds=THRESHOLDS, **FEW)
    assert again.gate == quantized.gate


def test_every_stage_reports_each_step_and_prints_nothing(checkpoint, recording, tmp_path, capsys):
    reports: list[Progress] = []
    result = quantize(
        checkpoint,
        "int8-w8a8-static",
        recording,
        thresholds=THRESHOLDS,
        scan=ScanOptions("part", 4, ["int8-w8a16"]),
        search=tmp_path / "mix.yaml",
        on_progress=reports.append,
        **FEW,
    )
    stages = list(dict.fromkeys(report.stage for report in reports))
    assert stages == ["calibrating", "scanning", "searching", "fp32", "mix"]
    for stage in ("calibrating", "scanning", "fp32", "mix"):
        steps = [report for report in reports if report.stage == stage]
        assert [report.done for report in steps] == list(range(len(steps)))
        assert steps[-1].done == steps[-1].total
    assert result.scheme == load_scheme(tmp_path / "mix.yaml")
    assert result.mix is not None and result.ranking and result.calibration is not None
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_a_calibration_is_taken_as_a_file_or_an_object(checkpoint, recording, tmp_path):
    calibration = calibrate(str(checkpoint), str(recording), calibration_frames=16)
    calibration.save(str(tmp_path / "calibration"))
    schemes = [
        quantize(checkpoint, "int8-w8a8-static", recording, calibration=given, thresholds=THRESHOLDS, **FEW)
        for given in (calibration, str(tmp_path / "calibration"))
    ]
    assert schemes[0].gate == schemes[1].gate


def test_a_calibration_of_another_checkpoint_is_refused_before_frames_are_read(checkpoint, recording):
    calibration = calibrate(checkpoint, recording, calibration_frames=16)
    other = replace(calibration, source=replace(calibration.source, checkpoint_sha256="0" * 64))
    with pytest.raises(ConfigError, match="calibrate this one"):
        quantize(checkpoint, "int8-w8a8-static", "absent.npz", calibration=other)


def test_messages_name_arguments_and_no_flags(checkpoint, recording, tmp_path):
    with pytest.raises(ConfigError, match=r"^search mix.json: expected a name that ends in .yaml"):
        quantize(checkpoint, search="mix.json")
    kept = tmp_path / "kept"
    with pytest.raises(ConfigError, match="leave resume out"):
        calibrate(checkpoint, recording, resume_path=kept, resume=True)
    kept.write_text("")
    with pytest.raises(ConfigError, match="go on with resume=True"):
        calibrate(checkpoint, recording, resume_path=kept)
