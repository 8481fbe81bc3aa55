"""What users import: cheap to import, declared once, typed, and not changed without a word in the changelog."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pi0_edge

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "numpy", "grpc", "mujoco", "safetensors", "serial")


def public_api():
    spec = importlib.util.spec_from_file_location("public_api", ROOT / "tools" / "public_api.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)


def test_importing_the_package_imports_nothing_heavy():
    ran = python(f"import pi0_edge, sys; print([name for name in {HEAVY} if name in sys.modules])")
    assert ran.stdout.strip() == "[]", ran.stdout + ran.stderr


def test_every_public_name_can_be_imported():
    for name in pi0_edge.__all__:
        assert getattr(pi0_edge, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Polici'"):
        pi0_edge.Polici  # noqa: B018


def test_type_checkers_and_python_see_the_same_names():
    tree = ast.parse((ROOT / "pi0_edge" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == pi0_edge._MODULES
    assert [*sorted(pi0_edge._MODULES, key=str), "__version__"] == list(pi0_edge.__all__)


def test_the_version_is_that_of_the_installed_package():
    assert re.fullmatch(r"\d+\.\d+\.\d+", pi0_edge.__version__)


@pytest.mark.parametrize("package", ["pi0_edge", "quant", "protos", "firmware_bridge"])
def test_users_see_our_types(package: str):
    assert (ROOT / package / "py.typed").is_file()


def test_every_error_has_the_one_root():
    from firmware_bridge import errors as bridge_errors
    from pi0_edge import errors

    for module in (errors, bridge_errors):
        for name, value in vars(module).items():
            if isinstance(value, type) and issubclass(value, Exception):
                assert issubclass(value, pi0_edge.Pi0EdgeError), name


def test_a_change_of_the_public_interface_is_in_the_changelog():
    api = public_api()
    text = api.describe()
    advice = "run: python tools/public_api.py, and say in CHANGELOG.md under [Unreleased] what changed"
    assert api.LIST.read_text() == text, advice
    unreleased = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1]
    assert f"public interface {api.fingerprint(text)}" in unreleased, advice
