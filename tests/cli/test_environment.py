"""Environments that are shared with other projects: packages of the wrong version are named, never a traceback.

A package is made to look older by metadata that is found before its own, which is where every version is read from.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import requires

import pytest

from pi0_edge import doctor, installed_packages
from pi0_edge.errors import MissingDependencyError
from pi0_edge.installed_packages import check_versions, fits, foreign_fault, version_conflicts

pytestmark = pytest.mark.system

pytest.importorskip("grpc", reason="needs the extra bridge")


def claim(folder, name, version, *needs):
    """Metadata of a package that is not really there."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {need}" for need in needs)]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    return folder


def run_beside(folder, *arguments):
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH", "")]), os.getcwd()])
    argv = [sys.executable, "-m", "pi0_edge.cli", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=120)


OLD = {"protobuf": "5.29.5", "grpcio": "1.73.1"}


@pytest.mark.parametrize("name", OLD)
@pytest.mark.parametrize("command", [("bridge", "--port", "/dev/absent"), ("serve",)])
def test_a_grpc_that_is_too_old_is_one_line(tmp_path, name, command):
    ran = run_beside(claim(tmp_path, name, OLD[name]), *command)
    assert ran.returncode == 2, ran.stderr
    (line,) = ran.stderr.strip().splitlines()
    assert line.startswith(f"error: {name} {OLD[name]} is installed, pi0-edge "), line
    assert f"needs {name}" in line and "Run: pip install --upgrade '" in line


@pytest.mark.parametrize("public", ["PolicyClient", "PolicyServer", "BridgeClient"])
def test_python_gets_an_error_of_ours_too(tmp_path, public):
    code = f"import pi0_edge\ntry: pi0_edge.{public}\nexcept pi0_edge.Pi0EdgeError as error: print(error)"
    path = os.pathsep.join([str(claim(tmp_path, "protobuf", "5.29.5")), os.getcwd()])
    argv = [sys.executable, "-c", code]
    env = {**os.environ, "PYTHONPATH": path}
    ran = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=120, check=True)
    assert "protobuf 5.29.5 is installed, pi0-edge" in ran.stdout


def test_doctor_fails_on_it_and_names_the_command(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(claim(tmp_path, "protobuf", "5.29.5")))
    found = doctor.packages()
    assert found.status == "fail" and "protobuf 5.29.5 is installed" in found.found
    assert found.fix.startswith("pip install --upgrade '") and "'protobuf<8,>=6.31.1'" in found.fix


def test_doctor_finds_no_fault_with_this_environment():
    assert doctor.packages().status == "pass"


@pytest.mark.parametrize(
    ("name", "version"), [("torch", "2.3.1"), ("numpy", "1.23.5"), ("mujoco", "3.2.0"), ("pyserial", "3.4")]
)
def test_every_declared_package_is_looked_at(tmp_path, monkeypatch, name, version):
    monkeypatch.syspath_prepend(str(claim(tmp_path, name, version)))
    (conflict, *_) = [found for found in version_conflicts() if found.package == name]
    assert conflict.found == version and conflict.for_users
    declared = next(text for text in requires("pi0-edge") or [] if text.startswith(name))
    assert conflict.needed in declared


def test_what_packages_need_of_each_other_counts(tmp_path, monkeypatch):
    claim(tmp_path, "grpcio-health-checking", "1.76.0", "protobuf<8.0.0,>=7.99", "grpcio>=1.76; extra == 'x'", "other")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingDependencyError, match=r"protobuf .* needs protobuf<8\.0\.0,>=7\.99\. Run: pip install"):
        check_versions(("grpcio", "grpcio-health-checking", "protobuf"))
    check_versions(("grpcio", "protobuf"))


def test_tools_of_development_are_no_failure_of_a_robot(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(claim(tmp_path, "ruff", "0.1.0")))
    (conflict,) = version_conflicts()
    assert (conflict.package, conflict.for_users) == ("ruff", False)
    assert doctor.packages().status == "warn"


@pytest.mark.parametrize(
    ("version", "versions", "expected"),
    [
        ("6.31.1", "<8,>=6.31.1", True),
        ("8.0.0", "<8,>=6.31.1", False),
        ("5.29.5", ">=6.31.1", False),
        ("1.9", ">=1.76", False),
        ("1.100", ">=1.76", True),
        ("2.5.0a0+872d972e41.nv24.08", ">=2.5", True),  # as NVIDIA builds torch for a Jetson
        ("2.13.0+cpu", ">=2.4", True),
        ("3.3.0", "==3.3.0", True),
        ("3.3", "==3.3.0", True),
        ("3.3.1", "==3.3.0", False),
        ("3.3.1", "==3.3.*", True),
        ("4.13", "~=4.12", True),
        ("5.0", "~=4.12", False),
        ("4.12.9", "~=4.12.1", True),
        ("4.13", "~=4.12.1", False),
        ("1.5", "!=1.5", False),
        ("1.6", "", True),
    ],
)
def test_versions_are_compared_as_numbers(version, versions, expected):
    assert fits(version, versions) is expected


def test_an_error_of_another_package_is_explained_where_a_version_explains_it(tmp_path, monkeypatch):
    assert foreign_fault(RuntimeError("anything")) is None
    assert "numpy<2" in (foreign_fault(RuntimeError("Numpy is not available")) or "")
    monkeypatch.syspath_prepend(str(claim(tmp_path, "torch", "2.1.0")))
    said = foreign_fault(AttributeError("module 'torch' has no attribute 'x'\nand more")) or ""
    assert said.startswith("torch 2.1.0 is installed, pi0-edge ")
    assert said.endswith("(AttributeError: module 'torch' has no attribute 'x')")


@pytest.mark.parametrize(
    "content",
    [
        "raise ImportError('python 2')\n",
        pytest.param("from future import x\n", marks=pytest.mark.slow),
        pytest.param("", marks=pytest.mark.slow),
    ],
)
def test_another_package_named_serial_is_not_taken_for_pyserial(tmp_path, content):
    """Such as PyPI's `serial`, which is no driver of serial ports."""
    (tmp_path / "serial").mkdir()
    (tmp_path / "serial" / "__init__.py").write_text(content)
    ran = run_beside(tmp_path, "bridge", "--port", "/dev/absent")
    assert ran.returncode == 2, ran.stderr
    (line,) = ran.stderr.strip().splitlines()
    assert "is another one than pyserial. Run: pip uninstall --yes serial pyserial && pip install" in line
    found = {check["name"]: check for check in json.loads(run_beside(tmp_path, "doctor", "--json").stdout)["checks"]}
    assert found["serial ports"]["status"] == "fail" and "pip uninstall" in found["serial ports"]["fix"]


def test_a_check_that_ends_in_an_error_has_failed(monkeypatch):
    def broken_thing():
        raise OSError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(doctor, "_CHECKS", (broken_thing,))
    (found,) = doctor.examine()
    assert (found.name, found.status) == ("broken thing", "fail")
    assert "libcudart" in found.found and found.fix


def test_a_torch_without_numpy_is_found(monkeypatch):
    torch = pytest.importorskip("torch")

    def refuse(*_: object) -> None:
        raise RuntimeError("Numpy is not available")

    monkeypatch.setattr(torch, "zeros", lambda *_: type("Tensor", (), {"numpy": refuse})())
    found = doctor.torch_build()
    assert found.status == "fail" and "numpy<2" in found.fix


def test_without_metadata_of_our_own_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(installed_packages, "DISTRIBUTION", "not-installed-at-all")
    assert version_conflicts() == []
