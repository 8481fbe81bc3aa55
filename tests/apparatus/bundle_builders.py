"""Bundles of the policy of `policy_builders`, as small as they get."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from policy_builders import CONFIG, write_checkpoint

from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.engine import parameter_shapes
from pi0_edge.engine.loading import blank_model, fill_model
from pi0_edge.processing import load_processor
from pi0_edge.quant import Scheme
from pi0_edge.quant.schemes import INT8_W8A8

PASSED = {"verdict": {"passed": True, "reasons": []}, "cosine": {"mean": 0.9999, "worst": 0.999}}
FAILED = {"verdict": {"passed": False, "reasons": ["cosine mean 0.9312 < 0.999"]}}
REPORT = "<!doctype html><title>gate report</title><p>cosine 0.9999</p>"


def bundle_inputs(folder: Path, scheme: Scheme = INT8_W8A8) -> dict[str, Any]:
    """Everything `write_bundle` needs, from a checkpoint with random weights that is put into `folder`."""
    checkpoint = open_checkpoint(write_checkpoint(folder / "checkpoint"))
    model = blank_model(CONFIG, scheme)
    fill_model(model, checkpoint.tensors(parameter_shapes(CONFIG)), scheme)
    report = folder / "report.html"
    report.write_text(REPORT)
    return {
        "state": model.state_dict(),
        "config": CONFIG,
        "scheme": scheme,
        "processing": load_processor(checkpoint.folder, CONFIG).description(),
        "source_sha256": "5" * 64,
        "gate": PASSED,
        "report_html": report,
    }


def small_inputs(folder: Path) -> dict[str, Any]:
    """The same with hardly any weights, for tests that touch every byte."""
    made = bundle_inputs(folder)
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(json.dumps({"model": {"type": "WordLevel", "vocab": {"<bos>": 0}, "unk_token": "<bos>"}}))
    tensors = {"a": torch.arange(16, dtype=torch.int8), "b": torch.arange(3, dtype=torch.int8)}
    return {**made, "state": tensors, "processing": replace(made["processing"], tokenizer=tokenizer)}
