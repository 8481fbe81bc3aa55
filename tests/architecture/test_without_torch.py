"""The bridge, the top of `pi0_edge` and the command line start where only the extra `bridge` is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from source_tree import ROOT

POLICY_ONLY = {"torch", "safetensors", "PIL", "tokenizers", "sentencepiece", "mujoco", "gymnasium", "matplotlib"}
BLOCKED = f"""
import importlib.abc, pkgutil, runpy, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {POLICY_ONLY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Block())
"""
ALL_MODULES = """
import firmware_bridge, pi0_edge.protos
for package in (firmware_bridge, pi0_edge.protos):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__") and module.name != "pi0_edge.protos.codegen.generate":
            __import__(module.name)
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", BLOCKED + code, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)


def test_blocked_packages_cannot_be_imported() -> None:
    assert python("import torch").returncode != 0


def test_the_top_of_the_package_imports_without_torch() -> None:
    ran = python("import pi0_edge, pi0_edge.errors")
    assert ran.returncode == 0, ran.stderr


def test_every_module_of_the_bridge_imports_without_torch() -> None:
    ran = python(ALL_MODULES)
    assert ran.returncode == 0, ran.stderr


def test_the_bridge_starts_without_torch() -> None:
    ran = python("runpy.run_module('firmware_bridge', run_name='__main__', alter_sys=True)", "--help")
    assert ran.returncode == 0, ran.stderr
    assert "--port" in ran.stdout


COMMAND_LINE = "from pi0_edge.cli import main; sys.exit(main())"


@pytest.mark.parametrize("arguments", [["--help"], ["bridge", "--help"], ["doctor", "--help"]])
def test_the_command_line_starts_without_torch(arguments: list[str]) -> None:
    ran = python(COMMAND_LINE, *arguments)
    assert ran.returncode == 0, ran.stderr


def test_the_bridge_command_reaches_its_port_without_torch() -> None:
    ran = python(COMMAND_LINE, "bridge", "--port", "/dev/ttyNONE", "--listen", "127.0.0.1:0")
    assert ran.returncode == 2
    assert "/dev/ttyNONE does not exist" in ran.stderr


@pytest.mark.slow
def test_the_bridge_extra_alone_installs_and_runs(tmp_path: Path) -> None:
    """A wheel of this tree in a fresh environment, with nothing but `[bridge]`."""
    unwanted = shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__")
    # A wheel is built in its source folder; links stay links, as they are in a checkout.
    shutil.copytree(ROOT, tmp_path / "source", ignore=unwanted, symlinks=True)
    venv.EnvBuilder(with_pip=True).create(tmp_path / "venv")
    interpreter = tmp_path / "venv" / "bin" / "python"
    subprocess.run([interpreter, "-m", "pip", "install", "-q", f"{tmp_path / 'source'}[bridge]"], check=True)
    packages = subprocess.run([interpreter, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert "torch" not in packages
    for argv in (["-m", "firmware_bridge", "--help"], ["-m", "pi0_edge.cli", "bridge", "--help"]):
        subprocess.run([interpreter, *argv], check=True, cwd=tmp_path, capture_output=True)
    site = next((tmp_path / "venv").glob("lib/python3*/site-packages"))
    data = ["firmware_bridge/firmware/Makefile", "firmware_bridge/firmware/core/serial_link.h"]
    data += ["pi0_edge/protos/serial_link.yaml", "pi0_edge/assets/pi0_cube_transfer/model.safetensors"]
    assert [name for name in data if not (site / name).is_file()] == []
    for name in ("quant", "protos"):
        assert not (site / name).exists(), f"{name} lies at the top of site-packages, where others may have theirs"
    assert list(site.glob("**/aloha.yaml")) != []
    assert list((site / "firmware_bridge" / "firmware").rglob("*.o")) == []
