"""The programs as ONNX: checked by `onnx`, run by ONNX Runtime, and exported by the command line."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_builders import FAILED, PASSED, bundle_inputs
from cli_runner import run
from policy_builders import CONFIG
from safetensors.torch import load_file
from tensorrt_cases import TIMES, Case, make_case
from torch import Tensor

from pi0_edge.bundle import open_bundle, write_bundle
from pi0_edge.engine import restore_engine
from pi0_edge.errors import EngineError
from pi0_edge.model import ModelInputs
from pi0_edge.quant import Rule, Scheme, compare_actions
from pi0_edge.quant.schemes import BF16_POLICY
from pi0_edge.tensorrt.onnx_programs import OPSET, write_onnx_programs
from pi0_edge.tensorrt.programs import conditioning_table, input_names, sample_actions

pytestmark = pytest.mark.system

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


@pytest.mark.parametrize("variant", [pytest.param(variant, marks=pytest.mark.slow) for variant in ("pi0", "pi05")])
def test_in_fp32_the_files_are_the_reference(variant: str, onnx_file: OnnxFile):
    case = make_case(variant, "fp32")
    error = (actions(case, onnx_file) - case.truth).abs().max().item()
    print(f"{variant}: largest difference {error:.1e}")
    assert error < 1e-5


@pytest.mark.slow
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


INT8_WEIGHTS = Scheme("int8-weights", "for this test", (Rule(("token_embedding",)), Rule(("*.attention.*", "*.mlp.*"))))


@pytest.mark.slow
def test_the_files_of_an_export_are_all_it_takes(tmp_path: Path):
    """A bundle is exported; what its files alone make of an observation are the actions of the CPU engine."""
    write_bundle(tmp_path / "bundle", **{**bundle_inputs(tmp_path, INT8_WEIGHTS), "gate": PASSED})
    folder = tmp_path / "programs"
    ran = run("export", "--bundle", tmp_path / "bundle", "--cameras", 2, "--tokens", 5, "--output", folder, "--json")
    assert ran.code == 0, ran.err
    assert sorted(ran.result["files"]) == sorted(path.name for path in folder.iterdir())

    random = torch.Generator().manual_seed(0)
    size = CONFIG.vision.image_size
    images, tokens = torch.rand(2, 3, size, size, generator=random) * 2 - 1, torch.tensor([1, 17, 230, 5, 99])
    state, noise = (torch.randn(shape, generator=random) for shape in (32, (CONFIG.horizon, 32)))
    there = torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 5, dtype=torch.bool)
    opened = open_bundle(tmp_path / "bundle")
    engine = restore_engine("cpu", opened.config, opened.tensors(), opened.scheme)
    expected = engine.infer(ModelInputs(images[None], there[0], tokens[None], there[1], state[None]), noise[None])[0]

    about, tables = json.loads((folder / "programs.json").read_text()), load_file(folder / "tables.safetensors")
    assert (about["bundle_sha256"], about["scheme"]) == (opened.sha256, "int8-weights")
    words = tables["embedding_values"][tokens] * tables["embedding_scale"][tokens, None] * about["word_scale"]
    attend, velocity = session(folder / "attend.onnx"), session(folder / "velocity.onnx")
    times = torch.tensor(about["times"])
    found = sample_actions(attend, velocity, (images, words, state), noise, tables["conditioning"], times)
    assert (found - expected).abs().max() < 1e-5
    shapes = [value["shape"] for value in about["programs"]["attend"]["inputs"].values()]
    assert shapes == [list(each.shape) for each in (images, words, state)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scheme", "orin"], "orin takes scales of activations from the tokens themselves"),
        (["--scheme", "fp8-w8a16"], "FP8 values, which TensorRT takes from compute capability 8.9 on"),
        (["--capability", "orin"], "'orin' is no compute capability; expected one such as 8.7"),
        (["--bundle", "nowhere", "--scheme", "bf16"], "--bundle brings its own weights"),
    ],
)
def test_export_refuses_in_one_line(options: list[str], message: str, tmp_path: Path):
    ran = run("export", "--cameras", 1, "--tokens", 5, "--output", tmp_path / "programs", *options)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert message in ran.err
    assert not (tmp_path / "programs").exists()


def test_a_bundle_whose_gate_failed_is_exported_only_on_request(tmp_path: Path):
    write_bundle(tmp_path / "bundle", **{**bundle_inputs(tmp_path, BF16_POLICY), "gate": FAILED})
    options = ["--bundle", tmp_path / "bundle", "--cameras", 1, "--tokens", 5, "--output", tmp_path / "programs"]
    ran = run("export", *options)
    assert ran.code == 2 and "its accuracy gate failed" in ran.err
    assert not (tmp_path / "programs").exists()
