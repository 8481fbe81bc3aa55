"""What the compiler makes of the kernels, against the committed table: no spills, tensor cores where they belong."""

import csv
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import kernel_resources
import pytest
from emulated_kernels import emulated_library
from kernel_resources import (
    NO_DISASSEMBLER,
    TABLE,
    Orin,
    Row,
    compiled_kernels,
    compiler,
    measure,
    nvdisasm,
    readable,
    recorded_launches,
    report_of,
    write,
)
from orin_model import cycles_per_step

from pi0_edge.kernels.gemm_plan import TILES, Tile

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed: nothing can be compiled")
needs_nvdisasm = pytest.mark.skipif(nvdisasm() is None, reason=NO_DISASSEMBLER)

TENSOR_CORES = {
    "attention": "HMMA",
    "embed_actions": "HMMA",
    "project_actions": "HMMA",
    "gemm::weight_only_kernel": "HMMA",
    "gemm::bytes_kernel<gemm::Int8": "IMMA",
    "gemm::bytes_kernel<gemm::Fp8": "",  # not compiled for Orin
}


@cache
def table() -> tuple[str, list[dict[str, str]]]:
    """The compiler that made the table, and its rows."""
    first, *rest = TABLE.read_text().splitlines()
    return first.removeprefix("# "), list(csv.DictReader(rest))


def test_the_table_has_every_launch_at_the_sizes_of_pi0():
    launches = recorded_launches(emulated_library())
    names = readable(launch.kernel for _, launch in launches)
    found = [(use, names[launch.kernel], launch.shared) for use, launch in launches]
    assert found == [(row["use"], row["kernel"], int(row["shared_bytes"])) for row in table()[1]]
    assert len({use for use, _, _ in found}) == len(found), "a call that is more than one launch"


def test_every_launch_fits_orin():
    for row in table()[1]:
        assert int(row["shared_bytes"]) <= Orin.SHARED_PER_BLOCK
        assert int(row["orin_blocks_per_sm"]) >= 1
        assert int(row["orin_warps_per_sm"]) >= 8, f"{row['use']}: two warps per scheduler hide no latency"


LEAST_SHARES = {
    "gemm::bytes_kernel<gemm::Int8": 0.6,
    "gemm::weight_only_kernel": 0.5,
    "attention_kernel<bf16, 256": 0.5,
}
"""Of the peak of Orin's tensor cores, in the hot loop, by the model of `orin_model.py`."""


def test_no_hot_loop_is_predicted_slower_than_it_was():
    """What the model sees at all fails the comparison below, where nvcc is; a large loss fails here as well."""
    rows = table()[1]
    for kernel, least in LEAST_SHARES.items():
        shares = {row["use"]: float(row["loop_share"]) for row in rows if row["kernel"].startswith(kernel)}
        assert shares
        assert {use: share for use, share in shares.items() if not least <= share <= 1} == {}


def test_shares_belong_to_each_other():
    """Over a whole product the tensor cores cannot do better than in its loop; kernels without them have no loop."""
    for row in table()[1]:
        assert bool(row["loop_share"]) == bool(row["tensor_core"]), row["use"]
        if row["shape_share"]:
            assert 0 < float(row["shape_share"]) <= float(row["loop_share"]), row["use"]
        if row["loop_instructions"]:
            parts = ("tensor", "copies", "float", "integer")
            assert int(row["loop_shared"]) + sum(int(row[f"loop_{part}"]) for part in parts) <= int(
                row["loop_instructions"]
            )


@needs_nvcc
@pytest.mark.slow
def test_no_kernel_spills_on_orin():
    for name, (_, kernel) in compiled_kernels(87).items():
        assert kernel.spilled == kernel.stack == 0, name


@needs_nvcc
@pytest.mark.slow
@needs_nvdisasm
@pytest.mark.parametrize("tile", TILES, ids=lambda tile: f"{tile.rows}x{tile.columns}")
def test_plans_go_by_the_cycles_of_every_loop(tile: Tile):
    """Of the tiles that π0 does not take, too, and of one block alone: the table has neither."""
    kernels = compiled_kernels(87)
    names = {name: mangled for mangled, name in readable(kernels).items()}
    shape = f"gemm::Tile<{tile.rows}, {tile.columns}, {tile.warp_rows}, {tile.stages}>"
    loops = kernels[names[f"gemm::bytes_kernel<gemm::Int8, {shape} >"]][1].loops
    for blocks, expected in ((1, tile.alone), (2, tile.together)):
        if expected:
            found = tuple(round(cycles_per_step(loop, tile.warps, blocks)) for loop in reversed(loops))
            assert found == expected


@needs_nvcc
@pytest.mark.slow
@needs_nvdisasm
def test_products_run_on_tensor_cores():
    kernels = compiled_kernels(87)
    names = readable(kernels)
    for prefix, core in TENSOR_CORES.items():
        found = {kernel.tensor_core for name, (_, kernel) in kernels.items() if names[name].startswith(prefix)}
        assert found == {core}, prefix


def test_a_table_without_a_disassembler_is_refused(monkeypatch, tmp_path: Path):
    """It would have no tensor cores and no loops, and take the place of one that has."""
    monkeypatch.setattr(kernel_resources, "nvdisasm", lambda: None)
    monkeypatch.setattr(kernel_resources, "measure", lambda: [])
    monkeypatch.setattr(kernel_resources, "TABLE", tmp_path / "resources.csv")
    with pytest.raises(SystemExit, match="nvdisasm is not installed"):
        write()
    assert not list(tmp_path.iterdir())


def test_a_source_is_compiled_by_one_worker_while_the_others_wait(monkeypatch, tmp_path: Path):
    compiled = []

    def compile_slowly(source: Path, architecture: int, cubin: Path) -> dict[str, dict]:
        compiled.append(cubin)
        time.sleep(0.2)
        return {source.stem: {"registers": architecture}}

    monkeypatch.setattr(kernel_resources, "BUILD", tmp_path)
    monkeypatch.setattr(kernel_resources, "compile_source", compile_slowly)
    source = tmp_path / "one.cu"
    source.write_text("")
    (tmp_path / "resources").mkdir()
    outdated = tmp_path / "resources" / f"one_87_{'0' * 16}.json"
    outdated.write_text("{")
    with ThreadPoolExecutor(3) as workers:
        found = list(workers.map(lambda _: report_of(source, 87, b""), range(3)))
    assert found == 3 * [{"one": {"registers": 87}}]
    assert len(compiled) == 1
    assert [json.loads(path.read_text()) for path in (tmp_path / "resources").glob("*.json")] == found[:1]


@needs_nvcc
@needs_nvdisasm
@pytest.mark.slow
def test_the_table_is_what_this_compiler_makes():
    made_by, rows = table()
    if made_by != compiler():
        pytest.skip(f"the table is of {made_by}, this is {compiler()}")
    found = [{key: "" if value is None else str(value) for key, value in vars(row).items()} for row in measure()]
    assert found == rows
    assert list(rows[0]) == list(Row.__annotations__)
