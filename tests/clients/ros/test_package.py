"""The package as colcon and ROS expect it."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from ros_system import PACKAGE, PYTHON, environment, needs_ros
from source_tree import ROOT, imports

NAME = "pi0_edge_ros"
WITHOUT_ENTRY = {"ament_index_python": "launch"}
"""What a package that is named brings with it."""


def manifest() -> ElementTree.Element:
    return ElementTree.parse(PACKAGE / "package.xml").getroot()


def test_the_manifest_names_every_ros_package_that_is_imported():
    named = {entry.text for entry in manifest().iter("exec_depend")}
    ros = ("rclpy", "launch", "launch_ros", "ament_index_python")
    used = {name.split(".")[0] for path in PACKAGE.rglob("*.py") for name in imports(path)}
    used = {name for name in used if name in ros or name.endswith(("_msgs", "_srvs"))}
    assert {"rclpy", "sensor_msgs", "std_srvs", "launch_ros"} <= used
    assert {WITHOUT_ENTRY.get(name, name) for name in used} <= named


def test_the_manifest_is_of_format_3_and_of_this_kind_of_package():
    root = manifest()
    assert root.attrib == {"format": "3"}
    assert (root.findtext("name"), root.findtext("export/build_type")) == (NAME, "ament_python")
    setup = ast.parse((PACKAGE / "setup.py").read_text())
    versions = [word.value for word in ast.walk(setup) if isinstance(word, ast.keyword) and word.arg == "version"]
    assert [ast.literal_eval(version) for version in versions] == [root.findtext("version")]


def test_only_the_node_and_the_launch_file_need_ros():
    needing = {
        path.name
        for path in PACKAGE.rglob("*.py")
        if any(name.startswith(("rclpy", "launch")) for name in imports(path))
    }
    assert needing == {"node.py", "policy.launch.py"}


@pytest.mark.slow
def test_installed_it_lies_where_ros_looks_and_its_program_is_the_node(tmp_path: Path):
    needs_ros()
    ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    shutil.copytree(PACKAGE, tmp_path / "source", ignore=ignored)
    argv = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*argv, "--prefix", str(tmp_path / "installed"), str(tmp_path / "source")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    installed = tmp_path / "installed"
    for name in (f"ament_index/resource_index/packages/{NAME}", f"{NAME}/package.xml", f"{NAME}/config/policy.yaml"):
        assert (installed / "share" / name).is_file()
    assert (installed / "share" / NAME / "launch" / "policy.launch.py").is_file()
    script = next(installed.rglob("policy_node"))
    assert "from pi0_edge_ros.node import main" in script.read_text()
    packages = next(installed.rglob("pi0_edge_ros/node.py")).parents[1]
    there = environment(0) | {"PYTHONPATH": f"{packages}{os.pathsep}{ROOT}"}
    code = "from pi0_edge_ros import node; print(node.__file__, callable(node.main))"
    ran = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False, env=there)
    assert ran.stdout.split() == [str(packages / NAME / "node.py"), "True"], ran.stderr
