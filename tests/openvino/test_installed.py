"""The package and its devices: what is said where one is missing, and that products of integers are exact."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from cli_runner import run
from PIL import Image

from pi0_edge.engine import find_engine
from pi0_edge.errors import EngineError, MissingDependencyError
from pi0_edge.openvino.compiled_program import exact_settings
from pi0_edge.openvino.installed import Device, find_device, find_devices, load_openvino, open_core
from pi0_edge.openvino.integer_probe import check_integer_products
from pi0_edge.quant import find_scheme

here = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed: pip install 'pi0-edge[openvino]'"
)
PROBE = """
import openvino
from pi0_edge.openvino.installed import find_device
from pi0_edge.openvino.integer_probe import check_integer_products
core = openvino.Core()
check_integer_products(openvino, core, find_device(core, "CPU"))
"""


def test_without_the_package_it_says_what_installs_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    with pytest.raises(MissingDependencyError, match=r"pip install 'pi0-edge\[openvino\]'; or use engine=\"cpu\""):
        find_engine("openvino").check(find_scheme("fp32"))


def test_a_folder_of_this_name_is_no_package(tmp_path: Path, monkeypatch):
    (tmp_path / "openvino").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    with pytest.raises(MissingDependencyError):
        load_openvino()


def test_a_package_that_does_not_load_is_named_with_its_reason(tmp_path: Path, monkeypatch):
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("raise ImportError('libtbb.so.12: cannot open\\nsearched')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    with pytest.raises(EngineError, match=r"installed and does not load \(libtbb\.so\.12: cannot open\)") as it:
        load_openvino()
    assert "\n" not in str(it.value)


def test_a_name_of_a_device_belongs_to_openvino_alone():
    assert find_engine("openvino:GPU.1").name == "openvino:GPU.1"
    assert find_engine("openvino:GPU.1") is find_engine("openvino:GPU.1")
    assert find_engine("openvino").name == "openvino"
    for name in ("cpu:GPU", "openvino:", "vino"):
        with pytest.raises(EngineError, match=r"is not known; expected one of reference, .*openvino"):
            find_engine(name)


def test_a_gpu_is_the_first_of_several():
    core = SimpleNamespace(
        available_devices=["CPU", "GPU.0", "GPU.1"],
        get_property=lambda name, what: ["FP32"] if what == "OPTIMIZATION_CAPABILITIES" else f"the {name}",
    )
    assert [find_device(core, name).name for name in ("CPU", "GPU", "GPU.1")] == ["CPU", "GPU.0", "GPU.1"]
    with pytest.raises(EngineError, match=r"no device NPU in this machine, only CPU \(the CPU\), GPU\.0"):
        find_device(core, "NPU")


class BrokenGpu:
    """A `Core` whose GPU has a driver that fails."""

    available_devices = ("CPU", "GPU")

    def get_property(self, name: str, what: str) -> object:
        if name != "CPU":
            raise RuntimeError("Exception from src/inference/src/cpp/core.cpp:268:\n[GPU] no driver\n\n")
        return "a processor" if what == "FULL_DEVICE_NAME" else ["FP32"]


def test_a_device_that_fails_does_not_disturb_another():
    core = BrokenGpu()
    assert find_device(core, "CPU").description == "a processor"
    with pytest.raises(
        EngineError, match=r"^OpenVINO's device GPU does not say what it is: \[GPU\] no driver; look at"
    ):
        find_device(core, "GPU")
    with pytest.raises(EngineError, match=r"no device NPU in this machine, only CPU \(a processor\), GPU \(does not"):
        find_device(core, "NPU")
    with pytest.raises(EngineError, match="device GPU"):
        find_devices(core)


def failing(*_: object) -> None:
    raise RuntimeError("Exception from src/plugin.cpp:7:\nno driver\n")


def test_an_openvino_that_does_not_start_or_compile_is_one_line():
    with pytest.raises(EngineError, match=r"^OpenVINO 2026\.4 does not start: no driver$"):
        open_core(SimpleNamespace(__version__="2026.4", Core=failing))  # pyright: ignore[reportArgumentType]
    core = SimpleNamespace(compile_model=failing)
    with pytest.raises(
        EngineError, match=r"^NPU \(a device\) does not compute a product of 8-bit integers: no driver$"
    ):
        check_integer_products(MagicMock(), core, Device("NPU", "a device", frozenset({"FP32"})))


@pytest.mark.parametrize("name", ["CPU", "GPU", "GPU.1", "NPU"])
def test_activations_are_not_brought_to_8_bits_where_a_device_would(name: str):
    wanted = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
    there = Device(name, "", frozenset({"FP32"}), frozenset({wanted}))
    assert exact_settings(there, "f32", 2)[wanted] == 0
    without = Device(name, "", frozenset({"FP32"}))
    assert wanted not in exact_settings(without, "f32", 2)
    assert exact_settings(there, "f16", 2)["INFERENCE_PRECISION_HINT"] == "f16"


@here
def test_this_processor_says_that_it_can_quantize_activations():
    import openvino

    assert "DYNAMIC_QUANTIZATION_GROUP_SIZE" in find_device(openvino.Core(), "CPU").properties


@here
def test_a_device_that_is_not_there_and_a_scheme_that_cannot_be_are_one_line_each(tmp_path: Path):
    Image.new("RGB", (64, 48)).save(tmp_path / "top.png")
    asked = ("infer", "--image", f"top={tmp_path / 'top.png'}", "--state", " ".join(["0"] * 14))
    ran = run(*asked, "--engine", "openvino:XPU")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "OpenVINO finds no device XPU in this machine, only CPU (" in ran.err
    ran = run(*asked, "--engine", "openvino", "--scheme", "orin")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "use int8-w8a8-static" in ran.err


@here
@pytest.mark.parametrize(("instructions", "exact"), [("DEFAULT", True), ("AVX2", False)])
def test_a_processor_without_exact_products_is_refused_int8(instructions: str, exact: bool):
    """oneDNN without VNNI adds pairs of products in 16 bits: the same processor, told to do without."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or "vnni" not in cpuinfo.read_text():
        pytest.skip("this processor has no VNNI to do without")
    ran = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode == 0) == exact, ran.stderr
    if not exact:
        assert "does not add 8-bit products exactly: a sum of 256 is off by" in ran.stderr
