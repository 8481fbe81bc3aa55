"""Fixtures of more than one test file."""

import shutil
import signal
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tensorrt_cases import Case

# How long an example takes says nothing here: machines are shared, and the first one may compile a library.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# The background jobs of a shell ignore Ctrl-C, and so would all that tests start from here.
signal.signal(signal.SIGINT, signal.default_int_handler)

FIRMWARE = Path(__file__).parents[1] / "firmware_bridge" / "firmware"


@pytest.fixture(scope="session")
def firmware_image() -> Path:
    """The firmware image for the emulated board, built where the tools for it are installed."""
    for tool in ("qemu-system-arm", "arm-none-eabi-gcc", "make"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    build = subprocess.run(
        ["make", "-s", "-C", str(FIRMWARE), "lm3s6965evb", "ROBOT=aloha"], capture_output=True, text=True, check=False
    )
    assert build.returncode == 0, build.stdout + build.stderr
    return FIRMWARE / "build" / "lm3s6965evb" / "firmware.elf"


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory) -> "Callable[[Case, str], Path]":
    """The ONNX file of a program of a case, written once: that takes seconds."""

    @cache
    def written(case: "Case", name: str) -> Path:
        from pi0_edge.tensorrt.onnx_programs import write_onnx

        path = tmp_path_factory.mktemp("onnx") / f"{name}.onnx"
        write_onnx(case.program(name), path)
        return path

    return written
