"""`pi0-edge doctor` on this machine."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys

import pytest
import torch
from cli_runner import run

from pi0_edge import doctor
from pi0_edge.doctor import Check, gpu, machine
from pi0_edge.doctor.jetpack import JETPACKS, find_jetpack
from pi0_edge.errors import KernelError
from pi0_edge.kernels import library
from pi0_edge.quant import integer_matmul, native


def test_doctor_looks_at_everything_and_every_finding_names_its_remedy():
    ran = run("doctor", "--json")
    result = ran.result
    assert ran.code == (1 if result["fail"] else 0)
    assert result["pass"] + result["warn"] + result["fail"] == len(result["checks"]) >= 15
    for check in result["checks"]:
        assert check["found"], check
        assert check["status"] == "pass" or check["fix"], check
    names = {check["name"] for check in result["checks"]}
    assert {"Python", "torch", "qemu-system-arm", "EGL rendering", "shipped policy"} <= names


@pytest.mark.parametrize(
    ("level", "amx", "named"),
    [
        (native.Level.AVX512_VNNI, False, "AVX512_VNNI"),
        (native.Level.AVX2, False, "AVX2"),
        (native.Level.AVX512_VNNI, True, "none"),
        (native.Level.PORTABLE, False, "none"),
    ],
)
def test_the_processor_s_line_names_what_runs_int8_layers(monkeypatch, level, amx, named):
    """With AMX, oneDNN multiplies, and no stack runs."""
    monkeypatch.setattr(native, "level", lambda: level)
    monkeypatch.setattr(integer_matmul, "_has_amx", lambda: amx)
    monkeypatch.setattr(integer_matmul, "is_exact", lambda _: True)
    assert machine.processor().found.endswith(f"; C library: {named}")


@pytest.mark.parametrize(("status", "code"), [("pass", 0), ("warn", 0), ("fail", 1)])
def test_only_a_failure_decides_the_exit_code(monkeypatch, status, code):
    monkeypatch.setattr(doctor, "_CHECKS", (lambda: Check("thing", status, "found", "fix it"),))
    ran = run("doctor", "--json")
    assert ran.code == code
    assert ("fix it" in ran.err) is (status != "pass")


def test_programs_that_are_not_installed_are_found_missing(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    for check in (doctor.emulator(), doctor.cross_compiler(), doctor.host_compiler()):
        assert (check.status, check.found) == ("fail", "not installed")
        assert check.fix.startswith("sudo apt-get install --no-install-recommends ")
    assert doctor.static_analysis().status == doctor.unit_test_library().status == "warn"
    assert doctor.nvcc().status == "warn"


def test_a_program_that_does_not_run_is_not_taken_for_installed(monkeypatch, tmp_path):
    broken = tmp_path / "qemu-system-arm"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert shutil.which("qemu-system-arm") == str(broken)
    assert doctor.emulator().status == "fail"


def test_opengl_of_another_project_is_named_with_its_variable(monkeypatch):
    pytest.importorskip("mujoco", reason="needs the extra sim")
    monkeypatch.setenv("MUJOCO_GL", "bogus")
    found = doctor.rendering()
    assert (found.status, found.fix) == ("fail", "unset MUJOCO_GL or set it to egl")


def test_little_memory_and_disk_are_found(monkeypatch):
    for available, status in ((2**30, "fail"), (5 * 2**30, "warn"), (20 * 2**30, "pass")):
        monkeypatch.setattr(machine, "_available_memory", lambda size=available: size)
        assert doctor.memory().status == status


def test_asking_for_real_time_leaves_this_process_as_it_was():
    before = os.sched_getscheduler(0)
    assert doctor.scheduling().status in ("pass", "warn")
    assert os.sched_getscheduler(0) == before


JETPACK_6 = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic"


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("35.4.1", "JetPack 5"),
        ("36.3.0", "JetPack 6.0"),
        ("36.4.3", "JetPack 6.1 or 6.2"),
        ("36.5", "JetPack 6.1 or 6.2"),
        ("38.2.0", "JetPack 7.0 or 7.1"),
        ("39.2.1", "JetPack 7.2"),
        ("36", "JetPack 6.0"),
        ("37.0", None),
        ("40.0", None),
        ("45.0", None),
        ("32.7.1", None),
        ("", None),
    ],
)
def test_the_jetpack_of_a_release(release: str, name: str | None):
    found = find_jetpack(release)
    assert (None if found is None else found.name) == name


def test_no_advice_is_half_a_command():
    """What starts like a command can be typed as it is; everything else is a sentence."""
    for jetpack in JETPACKS:
        assert jetpack.install.startswith(("flash ", "install ", "on Thor: ")) or shlex.split(jetpack.install) == [
            "pip",
            "install",
            "torch>=2.11",
        ]


def on_jetson(monkeypatch, tmp_path, text: str = JETPACK_6) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nv_tegra_release").write_text(text + "\n")
    monkeypatch.setattr(gpu, "_ROOT", tmp_path)


def test_a_jetson_whose_torch_is_for_the_cpu_is_told_which_one_it_takes(monkeypatch, tmp_path):
    on_jetson(monkeypatch, tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = gpu.cuda()
    assert found.status == "warn" and "JetPack 6.1 or 6.2 takes torch 2.8 to 2.10" in found.found
    assert "cu126" in found.fix


def test_a_torch_without_code_for_the_gpu_is_found(monkeypatch, tmp_path):
    on_jetson(monkeypatch, tmp_path, "# R39 (release), REVISION: 2.1")
    cuda = {"is_available": True, "get_device_capability": (8, 7), "get_device_name": "Orin"}
    for name, value in {**cuda, "get_arch_list": ["sm_80", "sm_90"]}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    found = gpu.cuda()
    assert found.status == "warn" and "no code for this GPU (sm_80, sm_90); JetPack 7.2" in found.found
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_87"])
    monkeypatch.setattr(torch, "__version__", "2.5.0a0+872d972e41.nv24.08")
    found = gpu.cuda()
    assert found.status == "pass" and "cannot be counted before torch 2.8" in found.found


def test_a_jetson_is_told_what_its_kernels_say(monkeypatch, tmp_path):
    assert gpu.kernels().status == "pass"
    on_jetson(monkeypatch, tmp_path)
    monkeypatch.setattr(library, "BUILD", tmp_path)
    library.kernel_library.cache_clear()
    try:
        found = gpu.kernels()
    finally:
        library.kernel_library.cache_clear()
    assert found.status == "warn" and "not built" in found.found and "make kernels-jetson" in found.fix


@pytest.mark.parametrize(
    ("codes", "capability", "desktop", "jetson"),
    [
        (["sm_80", "sm_90"], (8, 6), True, False),
        (["sm_80", "sm_90"], (8, 0), True, True),
        (["sm_86"], (8, 0), False, False),
        (["sm_75", "compute_75"], (8, 7), True, True),
        (["compute_90"], (8, 9), False, False),
        (["sm_70", "sm_90"], (8, 6), False, False),
        (["sm_90a"], (9, 0), True, True),
        (["sm_100a", "sm_100f", "compute_100a"], (10, 3), False, False),
        (["sm_100", "compute_120"], (12, 0), True, True),
        (["gfx90a"], (9, 0), False, False),
    ],
)
def test_code_that_a_gpu_runs(codes, capability, desktop, jetson):
    assert gpu._runs(codes, capability, tegra=False) is desktop
    assert gpu._runs(codes, capability, tegra=True) is jetson


def test_a_desktop_whose_torch_has_no_code_for_its_gpu_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "_ROOT", tmp_path)
    cuda = {"is_available": True, "get_device_capability": (6, 1), "get_device_name": "GeForce GTX 1080"}
    for name, value in {**cuda, "get_arch_list": ["sm_75", "sm_120"]}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    found = gpu.cuda()
    assert found.status == "warn" and found.found.endswith("which has no code for this GPU (sm_75, sm_120)")
    assert "sm_61" in found.fix and "make" not in found.fix


class LoadedLibrary:
    """Kernels that load and that this machine does not run."""

    def require_device(self) -> None:
        raise KernelError("the kernels cannot run: GeForce RTX 30, 40 and 50 do not")


def test_building_is_advised_only_where_it_helps(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(library, "kernel_library", LoadedLibrary)
    found = gpu.kernels()
    assert found.status == "warn" and "do not" in found.found and "driver" in found.fix and "make" not in found.fix

    def older() -> None:
        raise KernelError("libpi0_kernels.so has version 3, expected 4")

    monkeypatch.setattr(library, "kernel_library", older)
    assert "make kernels builds" in gpu.kernels().fix


@pytest.mark.parametrize(
    ("nodes", "status"),
    [
        ({}, "pass"),
        ({"dri/renderD128": "0x8086"}, "warn"),
        ({"accel/accel0": "0x8086"}, "warn"),
        ({"dri/renderD128": "0x10de", "accel/accel0": "0x1022"}, "pass"),
        ({"dri/renderD128": "0x10de", "dri/renderD129": "0x8086"}, "warn"),
        ({"dri/renderD128": None}, "pass"),
    ],
)
def test_openvino_is_missed_only_beside_an_intel_gpu_or_npu(nodes, status, monkeypatch, tmp_path):
    """A processor of Intel's without one is better off with the CPU engine, and others have nodes of the same names."""
    for node, vendor in nodes.items():
        kind, name = node.split("/")
        (tmp_path / "dev" / kind).mkdir(parents=True, exist_ok=True)
        (tmp_path / "dev" / kind / name).touch()
        if vendor is not None:
            about = tmp_path / "sys/class" / {"dri": "drm"}.get(kind, kind) / name / "device"
            about.mkdir(parents=True)
            (about / "vendor").write_text(f"{vendor}\n")
    monkeypatch.setattr("pi0_edge.doctor.intel._ROOT", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = doctor.openvino()
    assert (found.status, found.fix) == (status, "pip install 'pi0-edge[openvino]'" if status == "warn" else "")


def test_a_device_of_openvino_that_fails_is_named_with_its_driver(monkeypatch, tmp_path):
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text(
        "__version__ = '2026.4'\n"
        "class Core:\n"
        "    available_devices = ['GPU']\n"
        "    def get_property(self, name, what):\n"
        "        raise RuntimeError('Exception from src/inference/src/cpp/core.cpp:268:\\nno OpenCL here\\n')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    found = doctor.openvino()
    assert found.status == "warn" and "GPU does not say what it is: no OpenCL here" in found.found
    assert "driver" in found.fix and "reinstall" not in found.fix


def test_an_openvino_that_does_not_load_is_no_openvino(monkeypatch, tmp_path):
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("raise ImportError('libtbb.so.12: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    found = doctor.openvino()
    assert found.status == "warn" and "libtbb.so.12" in found.found and "--force-reinstall openvino" in found.fix


def test_openvino_names_its_devices():
    module = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'pi0-edge[openvino]'")
    found = doctor.openvino()
    assert found.status == "pass" and found.found.startswith(module.__version__) and "CPU: " in found.found
