"""libpi0_edge_client built from this checkout, installed, and programs that find it as any user does."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from source_tree import ROOT

LIBRARY = ROOT / "clients" / "cpp"
EXAMPLES = ROOT / "examples" / "cpp"
CHECKS = ROOT / "tests" / "clients" / "cpp" / "program"
PACKAGES = "cmake g++ pkg-config libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc"
_ABSENT = ("Could not find a package configuration file", "Could NOT find", "None of the required")


def require_cpp() -> None:
    """Skips the test where the compiler, CMake, protobuf or gRPC for C++ is missing."""
    needed = ("cmake", "c++", "protoc", "grpc_cpp_plugin", "pkg-config")
    if missing := [program for program in needed if shutil.which(program) is None]:
        pytest.skip(f"{', '.join(missing)} not installed; apt-get install --no-install-recommends {PACKAGES}")


def run_cmake(*arguments: str | Path) -> None:
    """Runs CMake; skips the test where a library is not installed."""
    ran = subprocess.run(["cmake", *map(str, arguments)], capture_output=True, text=True, check=False)
    if any(words in ran.stderr for words in _ABSENT) and "pi0_edge_client" not in ran.stderr:
        pytest.skip(f"a library is not installed; apt-get install --no-install-recommends {PACKAGES}")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def install_library(folder: Path, *options: str) -> Path:
    """Builds the library and installs it below `folder`; returns the prefix."""
    require_cpp()
    prefix = folder / "installed"
    warnings = "-DPI0_EDGE_WARNINGS_AS_ERRORS=ON"
    run_cmake("-S", LIBRARY, "-B", folder / "client", warnings, f"-DCMAKE_INSTALL_PREFIX={prefix}", *options)
    run_cmake("--build", folder / "client")
    run_cmake("--install", folder / "client")
    return prefix


def build_with(prefix: Path, source: Path, folder: Path, *options: str) -> Path:
    """Builds programs that use the installed library; returns the folder that they are in."""
    run_cmake("-S", source, "-B", folder, f"-DCMAKE_PREFIX_PATH={prefix}", *options)
    run_cmake("--build", folder)
    return folder


class CheckClient:
    """The program of the tests; every call is a process of its own."""

    def __init__(self, program: Path, environment: dict[str, str] | None = None) -> None:
        self._program = program
        self._environment = environment

    def __call__(self, *arguments: str, stdin: str = "", timeout_s: float = 60.0) -> list[str]:
        """Runs a command; returns the lines that it printed.

        It ends with 0, or with 3 where it printed an error of the library as its last line.
        """
        argv = [str(self._program), *arguments]
        ran = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False, env=self._environment
        )
        assert ran.returncode in (0, 3) and ran.stderr == "", (ran.returncode, ran.stdout, ran.stderr)
        return ran.stdout.splitlines()
