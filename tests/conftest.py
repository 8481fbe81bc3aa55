"""Fixtures of more than one test file, and how tests share the processors."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

# One thread for each worker of pytest-xdist, set before torch starts its own: two workers with a thread for every
# processor wait for each other.
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

if TYPE_CHECKING:
    from tensorrt_cases import Case

# How long an example takes says nothing here: machines are shared, and the first one may compile a library.
settings.register_profile("default", deadline=None, max_examples=100)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile("default")

# The background jobs of a shell ignore Ctrl-C, and so would all that tests start from here.
signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent
FIRMWARE = TESTS.parent / "firmware_bridge" / "firmware"
REAL_TIME = "pytest.mark.real_time"
BACKGROUND = 5
"""Nice value of the tests that wait for no clock."""


@cache
def is_real_time(path: Path) -> bool:
    """Whether a test file says that it waits for a clock: all of it then runs on one worker."""
    return REAL_TIME in path.read_text()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real-time tests are marked as that, and several workers begin with them."""
    unmarked = {
        item.nodeid
        for item in items
        if "firmware_image" in getattr(item, "fixturenames", ()) and not is_real_time(item.path)
    }
    if unmarked:
        names = "\n".join(sorted(unmarked))
        raise pytest.UsageError(f"an emulated board runs in real time: give these files {REAL_TIME}\n{names}")
    if WORKER:
        items.sort(key=lambda item: not is_real_time(item.path))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Workers take file by file; the real-time files are one piece of work, so that no two ever run at once."""
    from xdist.scheduler import LoadScopeScheduling

    class FilesAndRealTime(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "real time" if is_real_time(config.rootpath / file) else file

    config.option.loadscopereorder = False  # in the order of the collection: real-time files first
    return FilesAndRealTime(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """On a worker beside real-time tests, the others take the processor time that those leave; no GPU, no GPU test."""
    if WORKER and not is_real_time(item.path) and os.nice(0) < BACKGROUND:
        os.nice(BACKGROUND)
    if item.get_closest_marker("gpu") is not None and not has_gpu():
        pytest.skip("torch sees no CUDA device")


@cache
def has_gpu() -> bool:
    """Whether torch sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def same_random_numbers_in_every_run() -> None:
    """A test that draws from torch's own generator fails every time or never."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def firmware_image() -> Path:
    """The firmware image for the emulated board, built where the tools for it are installed."""
    for tool in ("qemu-system-arm", "arm-none-eabi-gcc", "make"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    return built_image("ROBOT=aloha", "ACTUATORS=simulated", "BUILD=build")


@pytest.fixture(scope="session")
def aloha_image(firmware_image: Path) -> Path:
    """ALOHA with the back end for its Dynamixel servos; see `firmware_image`."""
    return built_image("ROBOT=aloha", "ACTUATORS=dynamixel", "BUILD=build/aloha")


@pytest.fixture(scope="session")
def so101_image(firmware_image: Path) -> Path:
    """SO-101 with the back end for its Feetech servos; see `firmware_image`."""
    return built_image("ROBOT=so101", "ACTUATORS=feetech", "BUILD=build/so101")


def built_image(*options: str) -> Path:
    """The image of the emulated board with these options of the Makefile."""
    argv = ["make", "-s", "-C", str(FIRMWARE), "lm3s6965evb", *options]
    build = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stdout + build.stderr
    return FIRMWARE / options[-1].removeprefix("BUILD=") / "lm3s6965evb" / "firmware.elf"


@pytest.fixture(scope="session")
def installed_cpp_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix where libpi0_edge_client is installed, built once where its packages are there."""
    from cpp_client import install_library

    return install_library(tmp_path_factory.mktemp("cpp"))


@pytest.fixture(scope="session")
def cpp_examples(installed_cpp_client: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the built examples in C++."""
    from cpp_client import EXAMPLES, build_with

    return build_with(installed_cpp_client, EXAMPLES, tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case, str], Path]:
    """The ONNX file of a program of a case, written once: that takes seconds."""

    @cache
    def written(case: Case, name: str) -> Path:
        from pi0_edge.tensorrt.onnx_programs import write_onnx

        path = tmp_path_factory.mktemp("onnx") / f"{name}.onnx"
        write_onnx(case.program(name), path)
        return path

    return written
