"""The C library on ARM, by emulation: the same sums with `sdot` as in plain C, and the attention of float64."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pi0_edge.quant import native
from pi0_edge.quant.native import Level

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "quant" / "native"
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64-static"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for tool in (COMPILER, EMULATOR):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    built = tmp_path_factory.mktemp("arm") / "native_on_arm"
    sources = [HERE / "native_on_arm.c", *SOURCES.glob("*.c")]
    options = ["-std=gnu11", "-O1", "-static", f"-I{SOURCES}", "-o", str(built)]
    subprocess.run([COMPILER, *options, *map(str, sources), "-lm"], check=True)
    return built


def ran(program: Path, processor: str) -> list[str]:
    argv = [EMULATOR, "-cpu", processor, str(program)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


def test_products_and_attention_are_right_with_dot_products(program: Path):
    expected = [f"level {level}: 0 wrong products, 0 wrong in attention" for level in (0, int(Level.NEON_DOT))]
    assert ran(program, "max") == expected


def test_an_older_processor_has_plain_c(program: Path):
    """A Cortex-A53 has no `sdot`; using it would end the process."""
    assert ran(program, "cortex-a53") == ["level 0: 0 wrong products, 0 wrong in attention"] * 2


def test_the_levels_have_the_numbers_of_the_source():
    header = (Path(native.__file__).parent / "native" / "native.h").read_text()
    names = header.split("enum { PORTABLE", 1)[1].split("}", 1)[0]
    assert [name.strip() for name in f"PORTABLE{names}".split(",")] == [level.name for level in Level]
