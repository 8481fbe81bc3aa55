"""The programs as ONNX: checked by `onnx`, run by ONNX Runtime, and exported by the command line."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_builders import PASSED, bundle_inputs
from cli_runner import run
from policy_builders import CONFIG
from safetensors.torch import load_file
from tensorrt_cases import TIMES, Case, make_case
from torch import Tensor

from pi0_edge.bundle import open_bundle, write_bundle
from pi0_edge.errors import EngineError
from pi0_edge.tensorrt.onnx_programs import OPSET, write_onnx_programs
from pi0_edge.tensorrt.programs import conditioning_table, input_names, sample_actions
from quant import compare_actions
from quant.schemes import BF16_POLICY

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'pi0-edge[tensorrt]'")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'pi0-edge[tensorrt]'")
runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: pip install onnxruntime")

OnnxFile = Callable[[Case, str], Path]


def session(path: Path) -> Any:
    """Runs a file on the CPU as the program it was made of."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    # As written: its optimizer (1.32) repeats quantization behind a reshape and forgets that the values are signed.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    loaded = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in loaded.get_inputs()]

    def call(*arguments: Tensor) -> Any:
        given = {name: value.numpy() for name, value in zip(names, arguments, strict=True)}
        outputs = [torch.from_numpy(value) for value in loaded.run(None, given)]
        return outputs if len(outputs) > 1 else outputs[0]

    return call


def actions(case: Case, onnx_file: OnnxFile) -> Tensor:
    attend, velocity = (session(onnx_file(case, name)) for name in input_names(case.model.config))
    table = conditioning_table(case.model, TIMES)
    return sample_actions(attend, velocity, case.observation, case.noise, table, TIMES)


@pytest.mark.parametrize("variant", ["pi0", pytest.param("pi05", marks=pytest.mark.slow)])
def test_in_fp32_the_files_are_the_reference(variant: str, onnx_file: OnnxFile):
    case = make_case(variant, "fp32")
    error = (actions(case, onnx_file) - case.truth).abs().max().item()
    print(f"{variant}: largest difference {error:.1e}")
    assert error < 1e-5


def test_static_int8_is_the_cpu_engine_within_rounding(onnx_file: OnnxFile):
    case = make_case("pi0", "int8-w8a8-static")
    compared = compare_actions(case.cpu, actions(case, onnx_file))
    print(f"cosine to the CPU engine {compared.cosine:.7f}")
    assert compared.cosine > 0.9999


@pytest.mark.parametrize(("name", "linears"), [("attend", 44), ("velocity", 21)])
def test_static_int8_stays_explicit_and_in_8_bits(name: str, linears: int, onnx_file: OnnxFile):
    case = make_case("pi0", "int8-w8a8-static")
    path = onnx_file(case, name)
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(str(path))
    assert [each.version for each in model.opset_import if each.domain == ""] == [OPSET]
    kinds = Counter(node.op_type for node in model.graph.node)
    weights = [
        each for each in model.graph.initializer if each.data_type == onnx.TensorProto.INT8 and len(each.dims) == 2
    ]
    assert len(weights) == linears
    assert kinds["DequantizeLinear"] == linears + kinds["QuantizeLinear"]
    assert {node.domain for node in model.graph.node} == {""}


def test_no_trace_of_the_machine_is_in_a_file(onnx_file: OnnxFile):
    content = onnx_file(make_case("pi0", "fp32"), "velocity").read_bytes()
    assert not re.search(rb"site-packages|\.py\b", content)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path):
    (tmp_path / "mine.txt").touch()
    case = make_case("pi0", "fp32")
    with pytest.raises(EngineError, match="holds something already; name a new folder"):
        write_onnx_programs(case.model, case.shape, TIMES, tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_export_of_a_bundle_is_the_policy_of_the_bundle(tmp_path: Path):
    """Everything that a program needs is in the folder: run from its files alone, it gives the bundle's actions."""
    write_bundle(tmp_path / "bundle", **{**bundle_inputs(tmp_path, BF16_POLICY), "gate": PASSED})
    options = ["--bundle", tmp_path / "bundle", "--cameras", 2, "--tokens", 5, "--output", tmp_path / "programs"]
    ran = run("export", *options, "--json")
    assert ran.code == 0, ran.err
    opened = open_bundle(tmp_path / "bundle")
    description = json.loads((tmp_path / "programs" / "programs.json").read_text())
    assert (description["bundle_sha256"], description["scheme"]) == (opened.sha256, "bf16")
    assert sorted(ran.result["files"]) == sorted(path.name for path in (tmp_path / "programs").iterdir())
    for name, program in description["programs"].items():
        model = onnx.load(str(tmp_path / "programs" / f"{name}.onnx"), load_external_data=False)
        shapes = {each.name: [d.dim_value for d in each.type.tensor_type.shape.dim] for each in model.graph.input}
        assert shapes == {each: about["shape"] for each, about in program["inputs"].items()}
        assert [each.name for each in model.graph.output] == program["outputs"]
    tables = load_file(tmp_path / "programs" / "tables.safetensors")
    assert tables["conditioning"].shape[0] == len(description["times"])
    assert tables["embedding"].shape == (CONFIG.vocab_size, CONFIG.prefix.width)
