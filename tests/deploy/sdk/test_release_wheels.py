"""The wheels of `make release` fit the robots that their names say, wherever they were built."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import shutil
import subprocess
import sys
import zipfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from sdk_folders import THIS_PROCESSOR
from source_tree import ROOT

pytestmark = pytest.mark.system

MACHINES = {"aarch64": 183, "x86_64": 62}
"""What an ELF file says about its processor."""
LIBRARY = "pi0_edge/quant/_native.so"
USES_OPENMP = "#include <omp.h>\nint threads(void) { return omp_get_max_threads(); }\n"


def loaded_tool() -> ModuleType:
    spec = spec_from_file_location("release_wheels", ROOT / "tools" / "release_wheels.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = loaded_tool()


@pytest.fixture(scope="module")
def processors() -> list[str]:
    """Those that can be compiled for here."""
    found = []
    for processor in MACHINES:
        try:
            tool.find_compiler(processor)
            found.append(processor)
        except tool.WheelError:
            continue
    if not found or shutil.which("readelf") is None:
        pytest.skip("no C compiler or no readelf is installed")
    return found


@pytest.fixture(scope="module")
def wheels(processors: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    built = tool.build_wheels(processors, tmp_path_factory.mktemp("dist"))
    return dict(zip(processors, built, strict=True))


def wheel_for(wheels: dict[str, Path], processor: str) -> Path:
    if processor not in wheels:
        pytest.skip(f"{processor}-linux-gnu-gcc is not installed")
    return wheels[processor]


def unpacked(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("processor", MACHINES)
def test_name_and_tag_say_what_it_is_for(wheels: dict[str, Path], processor: str) -> None:
    wheel = wheel_for(wheels, processor)
    tag = f"py3-none-manylinux_2_28_{processor}"
    assert wheel.name.startswith("pi0_edge-") and wheel.name.endswith(f"-{tag}.whl")
    with zipfile.ZipFile(wheel) as archive:
        about = next(name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
        lines = archive.read(about).decode().splitlines()
    assert [line for line in lines if line.startswith("Tag:")] == [f"Tag: {tag}"]
    assert "Root-Is-Purelib: false" in lines


@pytest.mark.parametrize("processor", MACHINES)
def test_its_library_is_for_that_processor_and_an_old_c_library(
    wheels: dict[str, Path], processor: str, tmp_path: Path
) -> None:
    library = unpacked(wheel_for(wheels, processor), tmp_path) / LIBRARY
    head = library.read_bytes()[:20]
    assert head[:4] == b"\x7fELF" and int.from_bytes(head[18:20], "little") == MACHINES[processor]
    assert tool.check_library(library, processor) <= (2, 28)
    needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    assert "libgomp" not in needed
    assert [path.name for path in (tmp_path / "pi0_edge").rglob("*.so")] == [library.name]


@pytest.mark.parametrize("processor", MACHINES)
def test_its_list_of_files_is_right(wheels: dict[str, Path], processor: str) -> None:
    with zipfile.ZipFile(wheel_for(wheels, processor)) as archive:
        names = archive.namelist()
        record = next(name for name in names if name.endswith(".dist-info/RECORD"))
        rows = list(csv.reader(io.StringIO(archive.read(record).decode())))
        assert [row[0] for row in rows if row[0] != record] == sorted(set(names) - {record})
        for name, digest, size in rows:
            if name != record:
                content = archive.read(name)
                expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                assert (digest, int(size)) == (f"sha256={expected}", len(content))


def test_it_holds_what_a_robot_needs_and_no_more(wheels: dict[str, Path]) -> None:
    for wheel in wheels.values():
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
        assert names >= {
            "pi0_edge/quant/fused_activation.py",
            "pi0_edge/protos/serial_link.yaml",
            "pi0_edge/deploy/installer/environments.py",
            "pi0_edge/assets/pi0_cube_transfer/model.safetensors",
            "firmware_bridge/firmware/Makefile",
        }
        tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
        assert tops == {"pi0_edge", "firmware_bridge"}
        assert [name for name in names if name.endswith((".o", ".elf", ".pyc"))] == []


def test_the_same_sources_give_the_same_bytes(wheels: dict[str, Path], tmp_path: Path) -> None:
    """A robot's environment has the name of its list, so a wheel that was only built again must not change it."""
    before = {path.name: path.read_bytes() for path in wheels.values()}
    built = tool.build_wheels(list(wheels), tmp_path / "dist")
    assert {path.name: path.read_bytes() for path in built} == before
    assert sorted(path.name for path in (tmp_path / "dist").iterdir()) == sorted(before)


def test_the_library_is_found_and_computes_as_torch_does(wheels: dict[str, Path], tmp_path: Path) -> None:
    folder = unpacked(wheel_for(wheels, THIS_PROCESSOR), tmp_path)
    code = """
import torch
from pi0_edge.quant import fused_activation as fused, formats, native
assert native.is_compiled(), "not loaded"
tokens = torch.randn(300, 512)
values, scale = fused.quantize_tokens(tokens)
expected, expected_scale = formats.quantize(tokens, formats.INT8_TOKEN)
assert torch.equal(values, expected) and torch.equal(scale, expected_scale)
print(fused.__file__)
"""
    argv = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", "-c", code]
    environment = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == str(folder / "pi0_edge/quant/fused_activation.py")


CHECK = """
#include <dlfcn.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <omp.h>

#define ROWS 300
#define COLUMNS 512
static float x[ROWS * COLUMNS], scales[ROWS];
static int8_t values[ROWS * COLUMNS];

int main(int count, char **given) {
    void *library = dlopen(given[1], RTLD_NOW);
    if (!library) return printf("%s\\n", dlerror()), 1;
    int (*quantize)(const float *, int64_t, int64_t, int8_t *, float *) = dlsym(library, "pi0_quantize_rows");
    for (int i = 0; i < ROWS * COLUMNS; i++) x[i] = sinf((float)i) * (float)(1 + i / COLUMNS);
    if (!quantize(x, ROWS, COLUMNS, values, scales)) return printf("not finite\\n"), 1;
    int wrong = 0;
    for (int row = 0; row < ROWS; row++)
        for (int k = 0; k < COLUMNS; k++)
            wrong += fabsf(x[row * COLUMNS + k] - scales[row] * values[row * COLUMNS + k]) > 0.5001f * scales[row];
    x[5] = NAN;
    if (quantize(x, ROWS, COLUMNS, values, scales)) return printf("NaN was not seen\\n"), 1;
    return printf("%d wrong, %d threads or fewer\\n", wrong, omp_get_max_threads()), wrong != 0;
}
"""


@pytest.mark.skipif(shutil.which("qemu-aarch64-static") is None, reason="qemu-aarch64-static is not installed")
def test_the_library_for_aarch64_runs(wheels: dict[str, Path], tmp_path: Path) -> None:
    """By qemu, in a program that has loaded OpenMP as torch has."""
    library = unpacked(wheel_for(wheels, "aarch64"), tmp_path) / LIBRARY
    (tmp_path / "check.c").write_text(CHECK)
    compiler = ["aarch64-linux-gnu-gcc", "-fopenmp", "check.c", "-o", "check", "-ldl", "-lm"]
    subprocess.run(compiler, cwd=tmp_path, check=True)
    argv = ["qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu", "check", str(library)]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.returncode == 0 and ran.stdout.startswith("0 wrong"), ran.stdout + ran.stderr


def compiled(folder: Path, source: str, *options: str) -> Path:
    (folder / "x.c").write_text(source)
    argv = [tool.find_compiler(THIS_PROCESSOR), "-shared", "-fPIC", "x.c", "-o", "x.so", *options]
    subprocess.run(argv, cwd=folder, check=True)
    return folder / "x.so"


def test_a_library_that_robots_lack_is_refused(processors: list[str], tmp_path: Path) -> None:
    with pytest.raises(tool.WheelError, match=r"needs libgomp\.so\.1, which a robot may not have"):
        tool.check_library(compiled(tmp_path, USES_OPENMP, "-fopenmp"), THIS_PROCESSOR)


def test_a_library_for_another_processor_is_refused(processors: list[str], tmp_path: Path) -> None:
    other = "x86_64" if THIS_PROCESSOR == "aarch64" else "aarch64"
    with pytest.raises(tool.WheelError, match=r"x\.so is for .*, expected"):
        tool.check_library(compiled(tmp_path, "int x;"), other)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(tool.WheelError, match="apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross"):
        tool.find_compiler("aarch64")


def checkout(folder: Path) -> Path:
    """A small tree that builds as this one does."""
    for name in ("pi0_edge", "quant", "protos", "firmware_bridge"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("")
    for name in ("quant", "protos"):
        (folder / "pi0_edge" / name).symlink_to(f"../{name}")
    (folder / "pi0_edge/__init__.py").write_text('__version__ = "0.1.0"\n')
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "quant/native", folder / "quant/native")
    return folder


def test_kernels_go_along_for_their_own_processor(processors: list[str], tmp_path: Path) -> None:
    """What they need of the C library is in the tag."""
    root = checkout(tmp_path / "tree")
    kernels = f"pi0_edge/kernels/build/{THIS_PROCESSOR}/libpi0_kernels.so"
    newer = "#include <math.h>\ndouble f(double x) { return exp(x) + pow(x, x); }\n"
    (root / kernels).parent.mkdir(parents=True)
    shutil.copy(compiled(tmp_path, newer, "-lm"), root / kernels)
    other = "x86_64" if THIS_PROCESSOR == "aarch64" else "aarch64"
    (root / kernels.replace(THIS_PROCESSOR, other)).parent.mkdir(parents=True)
    (root / kernels.replace(THIS_PROCESSOR, other)).write_bytes(b"")
    (wheel,) = tool.build_wheels([THIS_PROCESSOR], tmp_path / "dist", root)
    with zipfile.ZipFile(wheel) as archive:
        assert sorted(name for name in archive.namelist() if name.endswith(".so")) == sorted([kernels, LIBRARY])
    major, minor = max(tool.check_library(root / kernels, THIS_PROCESSOR), (2, 28))
    assert wheel.name.endswith(f"-py3-none-manylinux_{major}_{minor}_{THIS_PROCESSOR}.whl")


def test_nothing_is_left_in_the_checkout(processors: list[str], tmp_path: Path) -> None:
    root = checkout(tmp_path / "tree")
    before = sorted(root.rglob("*"))
    tool.build_wheels(processors[:1], tmp_path / "dist", root)
    assert sorted(root.rglob("*")) == before
