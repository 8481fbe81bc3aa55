"""The house rules: imports run downwards, the bridge lives without torch, sources are clean, nothing is unpickled."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runner import run

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pi0_edge", "pi0_edge.quant", "firmware_bridge", "pi0_edge.protos")
GENERATED = ("_pb2.py", "_pb2_grpc.py", "serial_link.h", "serial_link.py")
LONGEST_FILE = 500

POLICY_STACK = ["pi0_edge.checkpoints", "pi0_edge.engine", "pi0_edge.model", "pi0_edge.processing"]
ABOVE_POLICY = ["pi0_edge.policy", *POLICY_STACK]
EVERYTHING = ["*"]

# What each place may import of ours, besides itself and `pi0_edge.errors`; the first that fits a module counts.
ALLOWED = {
    "pi0_edge.errors": [],
    "pi0_edge.model": [],
    "pi0_edge.quant": ["pi0_edge.model"],
    "pi0_edge.checkpoints": ["pi0_edge.model"],
    "pi0_edge.processing": ["pi0_edge.model"],
    "pi0_edge.kernels": [],
    "pi0_edge.tensorrt": ["pi0_edge.model", "pi0_edge.quant"],
    "pi0_edge.engine": ["pi0_edge.kernels", "pi0_edge.model", "pi0_edge.tensorrt", "pi0_edge.quant"],
    "pi0_edge.estimation": ["pi0_edge.model", "pi0_edge.quant"],
    "pi0_edge.bundle": ["pi0_edge.model", "pi0_edge.processing", "pi0_edge.quant"],
    "pi0_edge.policy": [*POLICY_STACK, "pi0_edge.bundle", "pi0_edge.quant"],
    "pi0_edge.verification": [*POLICY_STACK, "pi0_edge.quant"],
    "pi0_edge.datasets": [],
    "pi0_edge.sim": ["pi0_edge.datasets"],
    "pi0_edge.training": ["pi0_edge.checkpoints", "pi0_edge.datasets", "pi0_edge.model", "pi0_edge.processing"],
    "pi0_edge.evaluation": [*ABOVE_POLICY, "pi0_edge.datasets", "pi0_edge.sim", "pi0_edge.quant"],
    "pi0_edge.ptq": [
        *ABOVE_POLICY,
        "pi0_edge.datasets",
        "pi0_edge.estimation",
        "pi0_edge.evaluation",
        "pi0_edge.sim",
        "pi0_edge.quant",
    ],
    "pi0_edge.serving": [*ABOVE_POLICY, "pi0_edge.bundle", "pi0_edge.protos"],
    "pi0_edge.certificates": ["pi0_edge.protos"],
    "pi0_edge.shipped": [],
    "pi0_edge.doctor": ["pi0_edge.shipped"],
    "pi0_edge.demo": EVERYTHING,
    "pi0_edge.cli": EVERYTHING,
    "pi0_edge": [],
    "firmware_bridge": ["pi0_edge.protos"],
    "pi0_edge.protos": [],
}

# Places that must run where these packages are not installed, or that keep out of what is not theirs.
FORBIDDEN = {
    "firmware_bridge": {"torch", "safetensors", "mujoco"},
    "pi0_edge.protos": {"torch", "numpy"},
    "pi0_edge.errors": {"torch", "numpy"},
    "pi0_edge.processing": {"grpc", "serial", "mujoco"},
    "pi0_edge.kernels": {"grpc", "serial", "mujoco"},
    "pi0_edge.bundle": {"grpc", "serial", "mujoco", "yaml"},
    "pi0_edge.estimation": {"grpc", "serial", "mujoco"},
    "pi0_edge.tensorrt": {"grpc", "serial", "mujoco"},
    "pi0_edge.engine": {"grpc", "serial", "mujoco"},
    "pi0_edge.ptq": {"grpc", "serial", "mujoco"},
    "pi0_edge.training": {"grpc", "serial", "mujoco"},
    "pi0_edge.sim": {"torch", "grpc", "serial"},
    "pi0_edge.datasets": {"torch", "grpc", "serial"},
    "pi0_edge.serving": {"serial", "mujoco"},
    "pi0_edge.quant": {"grpc", "serial", "mujoco"},
}


def sources() -> list[Path]:
    return sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py") if "build" not in path.parts)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, functions and type-checking blocks included."""
    module = module_name(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, node.module or ""]).strip(".")
            # `from package import name` may name a module of the package.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def inside(module: str, place: str) -> bool:
    return module == place or module.startswith(f"{place}.")


def place_of(module: str) -> str:
    return next(place for place in ALLOWED if inside(module, place))


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_imports_run_downwards(path):
    place = place_of(module_name(path))
    allowed = [place, "pi0_edge.errors", *ALLOWED[place]]
    for imported in imports(path):
        ours = imported.split(".")[0] in PACKAGES
        if ours and allowed[-1] != "*":
            assert any(inside(imported, target) for target in allowed), f"{place} must not import {imported}"


def test_only_the_command_line_and_the_demo_know_both_policy_and_bridge():
    both = set()
    for path in sources():
        tops = {imported.split(".")[0] for imported in imports(path)}
        if {"pi0_edge", "firmware_bridge"} <= tops:
            both.add(place_of(module_name(path)))
    assert both <= {"pi0_edge.cli", "pi0_edge.demo"}


@pytest.mark.parametrize("place", FORBIDDEN)
def test_a_place_keeps_out_of_what_is_not_its_business(place):
    for path in (path for path in sources() if inside(module_name(path), place)):
        found = {imported.split(".")[0] for imported in imports(path)} & FORBIDDEN[place]
        assert not found, f"{module_name(path)} imports {found}"


def test_the_model_knows_torch_and_nothing_else():
    for path in (ROOT / "pi0_edge" / "model").glob("*.py"):
        foreign = {imported.split(".")[0] for imported in imports(path)} - {"pi0_edge", "torch"}
        assert foreign <= sys.stdlib_module_names, f"{path.name} imports {foreign - sys.stdlib_module_names}"


BLOCKED = """
import importlib.abc, pkgutil, runpy, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Block())
"""
WITHOUT_TORCH = BLOCKED.format(blocked={"torch", "pi0_edge", "pi0_edge.quant", "safetensors", "mujoco"})
ALL_MODULES = """
import firmware_bridge, protos
for package in (firmware_bridge, protos):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__") and module.name != "pi0_edge.protos.codegen.generate":
            __import__(module.name)
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", code, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)


def test_every_module_of_the_bridge_imports_without_torch():
    ran = python(WITHOUT_TORCH + ALL_MODULES)
    assert ran.returncode == 0, ran.stderr


def test_the_block_really_blocks():
    assert python(WITHOUT_TORCH + "import torch").returncode != 0


def test_the_bridge_starts_without_torch():
    run_module = "runpy.run_module('firmware_bridge', run_name='__main__', alter_sys=True)"
    ran = python(WITHOUT_TORCH + run_module, "--help")
    assert ran.returncode == 0, ran.stderr
    assert "--port" in ran.stdout


COMMAND_LINE = BLOCKED.format(blocked={"torch", "safetensors", "mujoco"}) + (
    "from pi0_edge.cli import main; sys.exit(main())"
)


@pytest.mark.parametrize("arguments", [["--help"], ["bridge", "--help"], ["doctor", "--help"]])
def test_the_command_line_starts_without_torch(arguments):
    ran = python(COMMAND_LINE, *arguments)
    assert ran.returncode == 0, ran.stderr


def test_the_bridge_command_reaches_its_port_without_torch():
    ran = python(COMMAND_LINE, "bridge", "--port", "/dev/ttyNONE", "--listen", "127.0.0.1:0")
    assert ran.returncode == 2
    assert "/dev/ttyNONE does not exist" in ran.stderr


@pytest.mark.slow
def test_the_bridge_extra_alone_installs_and_runs(tmp_path):
    """A wheel of this tree in a fresh environment, with nothing but `[bridge]`."""
    unwanted = shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, tmp_path / "source", ignore=unwanted)  # a wheel is built in its source folder
    venv.EnvBuilder(with_pip=True).create(tmp_path / "venv")
    interpreter = tmp_path / "venv" / "bin" / "python"
    subprocess.run([interpreter, "-m", "pip", "install", "-q", f"{tmp_path / 'source'}[bridge]"], check=True)
    packages = subprocess.run([interpreter, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert "torch" not in packages
    for argv in (["-m", "firmware_bridge", "--help"], ["-m", "pi0_edge.cli", "bridge", "--help"]):
        subprocess.run([interpreter, *argv], check=True, cwd=tmp_path, capture_output=True)
    site = next((tmp_path / "venv").glob("lib/python3*/site-packages"))
    data = ["firmware_bridge/robots/aloha.yaml", "firmware_bridge/firmware/Makefile", "protos/serial_link.yaml"]
    data += ["firmware_bridge/firmware/core/serial_link.h", "pi0_edge/processing/robots/aloha.yaml"]
    data += ["pi0_edge/assets/pi0_cube_transfer/model.safetensors"]
    assert [name for name in data if not (site / name).is_file()] == []
    assert list((site / "firmware_bridge" / "firmware").rglob("*.o")) == []


def test_ruff_finds_nothing():
    argv = [sys.executable, "-m", "ruff", "check", "."]
    ran = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_pyright_finds_nothing():
    probe = subprocess.run([sys.executable, "-m", "pyright", "--version"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:  # it brings no Node.js of its own and fetches one at its first run
        pytest.skip(f"pyright does not run here: {(probe.stdout + probe.stderr).strip()[-200:]}")
    ran = subprocess.run([sys.executable, "-m", "pyright"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def written_files() -> list[Path]:
    """Every source file that a person wrote."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)
    if listed.returncode == 0:
        found = [ROOT / name for name in listed.stdout.splitlines()]
    else:  # an unpacked archive
        found = [path for name in (*PACKAGES, "tests", "benchmarks", "tools") for path in (ROOT / name).rglob("*")]
    kinds = {".py", ".c", ".h", ".sh", ".proto", ".ld"}
    return [path for path in found if path.suffix in kinds and path.is_file() and not path.name.endswith(GENERATED)]


def test_no_file_is_longer_than_a_person_reads():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in written_files()}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


PYTHON_FILES = [path for path in written_files() if path.suffix == ".py"]


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled_or_evaluated(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & UNPICKLERS
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in UNPICKLERS
        elif isinstance(node, ast.Call):
            check_call(node)


def check_call(node: ast.Call) -> None:
    called = ast.unparse(node.func)
    assert called not in ("eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "os.system"), called
    if called in ("np.load", "numpy.load"):
        allowed = [keyword.value for keyword in node.keywords if keyword.arg == "allow_pickle"]
        assert all(isinstance(value, ast.Constant) and value.value is False for value in allowed), called


def test_no_path_of_the_machine_it_was_written_on():
    home = re.compile(r"(?<![\w.])/(work|root|tmp)/\w")
    this = Path(__file__).name
    found = [str(p.relative_to(ROOT)) for p in written_files() if p.name != this and home.search(p.read_text())]
    assert found == []


def readme_commands() -> list[list[str]]:
    readme = ROOT / "README.md"
    if not readme.is_file():
        pytest.skip("there is no README.md yet")
    blocks = re.findall(r"```(?:sh|bash|console)?\n(.*?)```", readme.read_text(), re.DOTALL)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`((?:make|pi0-edge) [^`]+)`", readme.read_text())
    words = [re.sub(r"[][]", "", line.split("#")[0]).split() for line in lines]
    return [command for command in words if command[:1] in (["make"], ["pi0-edge"])]


def test_every_command_in_the_readme_exists():
    commands = readme_commands()
    assert ["make", "demo"] in commands and ["make", "test"] in commands
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for program, name, *options in commands:
        if program == "make":
            assert name in targets, name
            continue
        helped = run(name, "--help")
        assert helped.code == 0, name
        known = set(re.findall(r"--[a-z][a-z0-9-]*", helped.out))
        given = {option.split("=")[0] for option in options if option.startswith("--")}
        assert given <= known, f"{name}: {given - known}"


def test_continuous_integration_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test"
