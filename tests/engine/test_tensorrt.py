"""The TensorRT engine: what it says where it cannot run, its cache of plans, and on a GPU its actions."""

import copy
import importlib.util
import os
import stat
import sys
from pathlib import Path

import pytest
import torch
from cli_runner import run
from golden_vectors import load_golden
from PIL import Image
from tensorrt_cases import first_row, make_case

from pi0_edge.engine import build_engine
from pi0_edge.engine.tensorrt import TensorRtEngine
from pi0_edge.errors import EngineError, MissingDependencyError
from pi0_edge.quant import compare_actions, find_scheme
from pi0_edge.tensorrt.plan_cache import PlanCache, PlanKey, default_folder, network_digest
from pi0_edge.tensorrt.programs import Shape
from pi0_edge.tensorrt.releases import RELEASES

KEY = PlanKey("5" * 64, "Orin (nvgpu)", (8, 7), "tensorrt 10.3.0 torch-tensorrt 2.8.0", Shape(2, 20), "attend")
BF16 = find_scheme("bf16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_infer_says_so_in_one_line(tmp_path: Path):
    Image.new("RGB", (64, 48)).save(tmp_path / "top.png")
    picture = f"top={tmp_path / 'top.png'}"
    ran = run("infer", "--engine", "tensorrt", "--image", picture, "--state", " ".join(["0"] * 14))
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "the TensorRT engine needs a CUDA device" in ran.err and 'use engine="cpu"' in ran.err
    for release in RELEASES:
        assert f"{release.machine} has TensorRT {release.tensorrt}" in ran.err


@pytest.fixture
def a_gpu(monkeypatch):
    """What torch would say on an Orin; nothing is run on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 7))


def put_package(folder: Path, name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("a_gpu")
def test_without_tensorrt_it_says_which_version_goes_with_which_board():
    if "tensorrt" in sys.modules:
        pytest.skip("TensorRT is installed here")
    with pytest.raises(EngineError, match=r"needs the Python package tensorrt: JetPack 6\.2 .* 2\.8, JetPack 7\.2"):
        TensorRtEngine.check(BF16)


@pytest.mark.usefixtures("a_gpu")
def test_a_tensorrt_that_does_not_load_is_named_with_its_reason(tmp_path: Path, monkeypatch):
    code = "raise RuntimeError('Could not find libnvinfer.so.11\\nsearched everywhere')"
    put_package(tmp_path, "tensorrt", code, monkeypatch)
    with pytest.raises(
        EngineError, match=r"^the Python package tensorrt is installed and does not load \(Could not"
    ) as it:
        TensorRtEngine.check(BF16)
    assert "\n" not in str(it.value)


@pytest.mark.usefixtures("a_gpu")
def test_a_torch_tensorrt_that_does_not_load_is_no_reason_to_go_on_without_it(tmp_path: Path, monkeypatch):
    put_package(tmp_path, "tensorrt", "__version__ = '10.3.0'", monkeypatch)
    put_package(tmp_path, "torch_tensorrt", "import missing_library_of_it", monkeypatch)
    with pytest.raises(EngineError, match="package torch_tensorrt is installed and does not load"):
        TensorRtEngine.check(BF16)


@pytest.mark.usefixtures("a_gpu")
def test_a_board_without_torch_tensorrt_needs_onnx_and_is_told_so(tmp_path: Path, monkeypatch):
    put_package(tmp_path, "tensorrt", "__version__ = '10.16.2'", monkeypatch)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else find(name))
    with pytest.raises(MissingDependencyError, match=r"needs the package onnx: pip install 'pi0-edge\[tensorrt\]'"):
        TensorRtEngine.check(BF16)


@pytest.mark.usefixtures("a_gpu")
def test_fp8_is_refused_on_orin_with_the_alternative(tmp_path: Path, monkeypatch):
    put_package(tmp_path, "tensorrt", "__version__ = '10.3.0'", monkeypatch)
    put_package(tmp_path, "torch_tensorrt", "__version__ = '2.8.0'", monkeypatch)
    with pytest.raises(EngineError, match=r"fp8-w8a8 holds FP8 values, .* this is for 8\.7; use int8-w8a8-static"):
        TensorRtEngine.check(find_scheme("fp8-w8a8"))
    TensorRtEngine.check(find_scheme("int8-w8a8-static"))


def test_a_plan_that_was_stored_is_loaded(tmp_path: Path):
    cache = PlanCache(tmp_path / "plans")
    assert cache.load(KEY) is None
    cache.store(KEY, b"a plan")
    assert cache.load(KEY) == b"a plan"
    assert stat.S_IMODE(os.stat(tmp_path / "plans").st_mode) == 0o700
    assert [path.name for path in cache.folder.rglob("*") if path.is_file()] == ["attend-2-cameras-20-tokens.plan"]


@pytest.mark.parametrize(
    "other",
    [
        {"network": "6" * 64},
        {"gpu": "NVIDIA Thor"},
        {"capability": (11, 0)},
        {"builder": "tensorrt 10.16.2 onnx"},
        {"shape": Shape(2, 21)},
        {"shape": Shape(3, 20)},
        {"program": "velocity"},
    ],
)
def test_a_plan_of_anything_else_is_another_plan(other: dict, tmp_path: Path):
    cache = PlanCache(tmp_path)
    cache.store(KEY, b"a plan")
    assert cache.load(PlanKey(**{**vars(KEY), **other})) is None


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 32 + b"another plan"])
def test_a_damaged_plan_is_as_none(damage: bytes, tmp_path: Path):
    cache = PlanCache(tmp_path)
    cache.store(KEY, b"a plan")
    (tmp_path / KEY.path).write_bytes(damage)
    assert cache.load(KEY) is None


def test_the_cache_is_where_caches_are(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "pi0-edge" / "tensorrt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "pi0-edge" / "tensorrt"


def test_one_bit_of_a_weight_and_the_scheme_change_the_digest():
    model, scheme = make_case("pi0", "int8-w8a8-static").model, find_scheme("int8-w8a8-static")
    changed = copy.deepcopy(model)
    digest = network_digest(model, scheme)
    assert network_digest(changed, scheme) == digest
    changed.get_submodule("expert.layers.1.mlp.up").get_buffer("values")[3, 5] ^= 1
    assert network_digest(changed, scheme) != digest
    assert network_digest(model, BF16) != digest


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_on_a_gpu_its_actions_are_those_of_the_reference(variant: str, monkeypatch, tmp_path: Path):
    """Twice: with plans that are built now, and with the same ones from the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    golden = load_golden(variant)
    inputs, noise = first_row(golden.recording.inputs), golden.recording.noise[:1]
    truth = build_engine("reference", copy.deepcopy(golden.model)).infer(inputs, noise)
    built, cached = (build_engine("tensorrt", copy.deepcopy(golden.model), BF16).infer(inputs, noise) for _ in range(2))
    assert compare_actions(truth, built).cosine > 0.9999
    assert torch.equal(built, cached)
