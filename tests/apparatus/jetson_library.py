"""The Jetson's kernel library on another machine: built, loaded by qemu, and called with a stand-in for the driver."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch
from emulated_kernels import Launch
from source_tree import ROOT
from torch import Tensor

from pi0_edge.kernels.library import (
    FUNCTIONS,
    Argument,
    GemmArguments,
    KernelLibrary,
    Kind,
    Strided,
    type_code,
)

APPARATUS = Path(__file__).parent
PROCESSOR = "aarch64"
SYSTEM = Path("/usr/aarch64-linux-gnu")
COMPILER = f"{PROCESSOR}-linux-gnu-gcc"


@cache
def builder() -> ModuleType:
    """tools/jetson_kernels.py."""
    spec = spec_from_file_location("jetson_kernels", ROOT / "tools" / "jetson_kernels.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


@cache
def emulator() -> str:
    """The program that runs a program of aarch64; skips the test where something for it is missing."""
    found = next(filter(None, map(shutil.which, ("qemu-aarch64", "qemu-aarch64-static"))), None)
    missing = [package for package, there in {
        "qemu-user-static": found,
        "gcc-aarch64-linux-gnu": shutil.which(COMPILER),
        "g++-aarch64-linux-gnu": shutil.which(f"{PROCESSOR}-linux-gnu-g++"),
        "libc6-dev-arm64-cross": SYSTEM.is_dir(),
    }.items() if not there]  # fmt: skip
    if missing or found is None:
        pytest.skip(f"not installed: apt-get install {' '.join(missing)}")
    return found


@cache
def jetson_library(folder: Path) -> Path:
    """Builds the library into a folder; skips the test where its compilers cannot be had."""
    emulator()
    tool = builder()
    for toolkit in tool.TOOLKITS:
        try:
            tool.fetched(toolkit)
        except tool.KernelBuildError as error:
            pytest.skip(f"the compiler of CUDA {toolkit.name} cannot be downloaded: {str(error)[-200:]}")
    tool.build(PROCESSOR, folder / tool.NAME)
    return folder / tool.NAME


@dataclass(frozen=True)
class Driver:
    """What the stand-in for the driver says it is."""

    cuda: int = 12060
    gpu: int = 87
    count: int = 1


@dataclass(frozen=True)
class Called:
    """What became of a script.

    Attributes:
        version: Of the library.
        answers: Of pi0_device_ready, and of each call after it: the error and its words.
        launches: What the driver was asked to launch.
        arguments: The bytes of each argument of each launch.
    """

    version: int
    answers: list[tuple[int, str]]
    launches: list[Launch]
    arguments: list[list[bytes]]


def call_on_jetson(library: Path, script: list[str], driver: Driver | None, folder: Path) -> Called:
    """Loads the library under emulation and calls it.

    Args:
        library: The file.
        script: Lines of `kernel_caller.c`.
        driver: The stand-in; None for a machine without any.
        folder: For what is compiled.
    """
    caller = _compiled("kernel_caller.c", folder / "kernel_caller", ["-ldl"])
    environment = {"LD_LIBRARY_PATH": ""}
    if driver is not None:
        _compiled("stand_in_driver.c", folder / "libcuda.so.1", ["-shared", "-fPIC"])
        environment = {
            "LD_LIBRARY_PATH": str(folder),
            "STAND_IN_CUDA": str(driver.cuda),
            "STAND_IN_GPU": str(driver.gpu),
            "STAND_IN_COUNT": str(driver.count),
        }
    settings = [part for name, value in environment.items() for part in ("-E", f"{name}={value}")]
    argv = [emulator(), "-L", str(SYSTEM), *settings, str(caller), str(library)]
    ran = subprocess.run(argv, input="\n".join(script), capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    lines = [line.split() for line in ran.stdout.splitlines()]
    launched = [line for line in lines if line[0] == "launch"]
    answers = [(int(line[1]), " ".join(line[2:])) for line in lines[1:] if line[0] != "launch"]
    found = []
    for _, kernel, *numbers in launched:
        gx, gy, gz, bx, by, bz, shared, _ = map(int, numbers[:8])
        found.append(Launch(kernel, (gx, gy, gz), (bx, by, bz), shared))
    return Called(int(lines[0][1]), answers, found, [list(map(bytes.fromhex, line[10:])) for line in launched])


def _compiled(source: str, target: Path, options: list[str]) -> Path:
    if not target.is_file():
        argv = [COMPILER, "-O1", "-Wall", "-Werror", str(APPARATUS / source), "-o", str(target), *options]
        subprocess.run(argv, check=True)
    return target


class ScriptedLibrary(KernelLibrary):
    """Writes down calls as lines of `kernel_caller.c`; pointers are those of tensors here, and nobody reads them."""

    def __init__(self) -> None:
        self.script: list[str] = []

    def call(self, name: str, *arguments: Argument, device: torch.device | None = None) -> None:
        """Writes one call down, for the default stream."""
        words = [word_of(name, *pair) for pair in zip(FUNCTIONS[name], arguments, strict=True)]
        self.script.append(" ".join((f"pi0_{name}", *words, "i0")))


def word_of(name: str, kind: Kind, argument: Argument) -> str:
    """One argument as `kernel_caller.c` reads it."""
    if isinstance(argument, GemmArguments):
        return "g" + ctypes.string_at(ctypes.byref(argument), ctypes.sizeof(argument)).hex()
    if isinstance(argument, torch.dtype):
        return f"i{type_code(name, argument)}"
    if kind is Kind.FLOAT:
        assert isinstance(argument, float)
        return f"f{argument!r}"
    if isinstance(argument, Strided):
        argument = argument.tensor
    if isinstance(argument, Tensor):
        return f"i{argument.data_ptr()}"
    assert argument is None or isinstance(argument, int)
    return f"i{int(argument or 0)}"
