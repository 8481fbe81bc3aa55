"""The C library: products are exact with every set of instructions, and its source is clean."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_levels import LEVELS, compiled, has, used

from pi0_edge.quant import native
from pi0_edge.quant.integer_matmul import NativeMatmul
from pi0_edge.quant.native import Level

FOLDER = Path(native.__file__).parent / "native"


@st.composite
def products(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and weights, all random or all of the largest magnitude, with any tails."""
    rows, width = draw(st.integers(1, 20)), draw(st.integers(1, 140))
    depth = draw(st.one_of(st.integers(1, 70), st.integers(250, 520)))  # weights are packed 256 deep at a time
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    low = draw(st.sampled_from([-127, -3, 127]))
    return tuple(
        torch.randint(low, 128, shape, generator=generator, dtype=torch.int8)
        * (1 if draw(st.booleans()) else torch.tensor(-1, dtype=torch.int8))
        for shape in ((rows, depth), (width, depth))
    )  # pyright: ignore[reportReturnType]


def exact(tokens: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (tokens.long() @ weight.long().t()).float() * scale


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=25, deadline=None)
@given(products())
def test_products_are_exact(level: Level, case: tuple[torch.Tensor, torch.Tensor]):
    tokens, weight = case
    scale = torch.rand(len(weight)) + 0.1
    with used(level):
        assert torch.equal(NativeMatmul(weight, scale)(tokens), exact(tokens, weight, scale))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("rows", "depth"), [(1, 2048), (7, 2049), (970, 2052), (3, 65535)])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_are_exact_at_every_depth(level: Level, rows: int, depth: int, sign: int):
    """Deeper than one block of K, more rows than one chunk, and the extremes of both operands."""
    if level == Level.PORTABLE and rows > 100:
        pytest.skip("plain C takes seconds")
    tokens, weight = torch.full((rows, depth), 127, dtype=torch.int8), torch.full((33, depth), 127, dtype=torch.int8)
    with used(level):
        found = NativeMatmul(sign * weight, torch.ones(33))(tokens)
    assert bool((found == torch.tensor(sign * 127 * 127 * depth).float()).all())


@compiled
def test_a_product_of_no_rows_is_empty():
    assert NativeMatmul(torch.ones(5, 8, dtype=torch.int8), torch.ones(5))(
        torch.ones(0, 8, dtype=torch.int8)
    ).shape == (0, 5)


@compiled
def test_the_fastest_level_of_this_processor_is_used():
    assert native.level() == max(case.values[0] for case in LEVELS if has(case.values[0]))  # pyright: ignore


def test_without_the_library_nothing_is_packed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native, "library", lambda: None)
    assert native.level() == Level.PORTABLE and not native.is_compiled()
    with pytest.raises(RuntimeError, match="reinstall with a C compiler"):
        native.PackedLinear(torch.ones(2, 2, dtype=torch.int8), torch.ones(2))


@compiled
@pytest.mark.parametrize("name", ["Linear", "Layer", "Stack"])
def test_a_library_of_another_version_is_not_used(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Its structures would be read at wrong places."""

    class Longer(ctypes.Structure):
        _fields_ = (*getattr(native, name)._fields_, ("added", ctypes.c_void_p))

    monkeypatch.setattr(native, name, Longer)
    with caplog.at_level("INFO"):
        assert native.library.__wrapped__() is None
    assert "is of another version" in caplog.text


@compiled
@pytest.mark.parametrize("table", ["_ARGUMENTS", "_LARGE_RESULTS"])
def test_a_library_without_a_function_is_not_used(
    table: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """An older one lacks what this version calls."""
    added = {"pi0_of_tomorrow": ()}
    wanted = {"_ARGUMENTS": {**native._ARGUMENTS, **added}, "_LARGE_RESULTS": (*native._LARGE_RESULTS, *added)}[table]
    monkeypatch.setattr(native, table, wanted)
    with caplog.at_level("INFO"):
        assert native.library.__wrapped__() is None
    assert "is of another version" in caplog.text


@pytest.mark.parametrize("source", sorted(FOLDER.glob("*.c")), ids=lambda path: path.name)
@pytest.mark.parametrize("compiler", ["gcc", "aarch64-linux-gnu-gcc", "cppcheck"])
def test_the_source_is_clean(source: Path, compiler: str):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    strict = ["-std=gnu11", "-O2", "-fopenmp", "-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion", "-Werror"]
    options = [*strict, "-fsyntax-only"]
    if compiler == "cppcheck":
        options = ["--quiet", "--enable=warning,performance,portability", "--error-exitcode=1"]
    ran = subprocess.run([compiler, *options, str(source)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
