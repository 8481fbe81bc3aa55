"""torch-tensorrt: every operator of the programs is one that it converts, and it makes plans of them."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorrt_cases import make_case
from torch_tensorrt_without_gpu import CASES, FOLDER, operators

from pi0_edge.tensorrt.programs import input_names

TABLE = Path(__file__).parents[1] / "data" / "torch_tensorrt_operators.csv"
"""What torch-tensorrt 2.13.0 made plans of, and every operator that it met on the way."""
SCRIPT = Path(__file__).with_name("torch_tensorrt_without_gpu.py")


def rows(what: str) -> set[str]:
    lines = [line for line in TABLE.read_text().splitlines() if not line.startswith("#")]
    return {row["name"] for row in csv.DictReader(lines) if row["what"] == what}


QUICK = [("pi0", "int8-w8a8-static")]


@pytest.mark.parametrize(
    ("variant", "scheme"), [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_no_operator_is_new_to_torch_tensorrt(variant: str, scheme: str):
    """A plan has no place for what is left to torch, so one operator without a converter is one too many."""
    case = make_case(variant, scheme)
    for name in input_names(case.model.config):
        found = operators(case.program(name).exported.graph)
        assert len(found) > 15
        assert found <= rows("exported")


@pytest.mark.slow
def test_the_table_is_what_torch_tensorrt_does():
    """The real converters and a real builder make plans of all cases; whether they are right, only a GPU can say."""
    if not (FOLDER / "torch_tensorrt").is_dir():
        pytest.skip(f"torch-tensorrt-rtx is not in build/torch-tensorrt, see {SCRIPT.name}")
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed, see docs/tensorrt.md")
    root = SCRIPT.parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}  # a script knows only its own folder
    argv = [sys.executable, str(SCRIPT)]
    ran = subprocess.run(argv, capture_output=True, text=True, cwd=root, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout == TABLE.read_text()


def test_quantization_reaches_the_converters_and_the_plan():
    """Nothing before them may fold 8-bit weights to float32: the plan would be larger, and nothing run in INT8."""
    assert {"pi0.quantize_linear.default", "pi0.dequantize_linear.default"} <= rows("converted")
    assert rows("weights in the plan") == {"static INT8: 8 bits", "INT8 weights: 8 bits"}


def test_dequantization_is_nothing_that_constant_folding_folds():
    """Folded, weights would be float32 in the plan, and nothing would run in INT8; nobody would say so."""
    for operation in (torch.ops.pi0.quantize_linear.default, torch.ops.pi0.dequantize_linear.default):
        assert torch.Tag.nondeterministic_seeded in operation.tags
