"""The estimate against what others measured, against the network itself, and on the command line."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runner import run
from emulated_kernels import emulated_library
from engine_cases import CPU, quantized, random_case
from operator_launches import Launches

import pi0_edge.estimation
from pi0_edge.engine.cuda.graphs import LoopStage, PrefixStage
from pi0_edge.engine.cuda.network import CudaNetwork, step_tables
from pi0_edge.errors import ConfigError, KernelError
from pi0_edge.estimation import ChunkEstimate, devices, estimate, estimate_chunk, find_device, kernel_times, work
from pi0_edge.estimation.kernel_times import SPREADS, kernel_cycles, kernel_time
from pi0_edge.estimation.work import Chunk, Kernel, Unit, kernels, network_bytes
from pi0_edge.kernels.gemm_plan import MACS_PER_CYCLE, TILES
from pi0_edge.latency.stages import NETWORK, Stage
from pi0_edge.model import PRESETS, Pi0
from pi0_edge.model.flow import euler_times
from pi0_edge.quant import ORIN, SCHEMES, find_scheme
from pi0_edge.quant.formats import BF16, INT4_TENSOR
from pi0_edge.quant.schemes import BF16_POLICY, Rule, Scheme

with (Path(pi0_edge.estimation.__file__).parent / "published.csv").open() as file:
    PUBLISHED = list(csv.DictReader(file))
ANCHORS = [row for row in PUBLISHED if row["anchor"]]
TOLERANCE = 0.25
"""How far a measured anchor may lie from the expected time. The anchors are well-made bf16 graphs, whose products come
from cuBLAS or a tuned Triton; the other rows are of software that is known to leave time on the table."""


def name(row: dict[str, str]) -> str:
    return f"{row['device']} {row['scheme']} {row['cameras']} {row['source'].split()[0]}"


def estimated(row: dict[str, str]) -> ChunkEstimate:
    config = replace(PRESETS[row["model"]], horizon=int(row["horizon"]))
    where, scheme = find_device(row["device"]), find_scheme(row["scheme"])
    return estimate_chunk(where, config, scheme, int(row["cameras"]), int(row["tokens"]))


@pytest.mark.parametrize("row", PUBLISHED, ids=name)
def test_nobody_is_faster_than_the_floor_or_than_expected(row: dict[str, str]):
    found, measured = estimated(row), float(row["milliseconds"])
    assert measured >= found.floor_ms
    share = 0.95 if row["scheme"] == "fp8-w8a8" else 1.0  # two on Thor are that much faster, in loops that are not ours
    assert measured >= share * found.fused_ms, "a published chunk is faster than what we call expected"
    assert found.expected_ms >= found.fused_ms >= found.floor_ms


@pytest.mark.parametrize("row", ANCHORS, ids=name)
def test_expected_times_agree_with_the_anchors(row: dict[str, str]):
    ratio = float(row["milliseconds"]) / estimated(row).fused_ms
    print(f"{name(row)}: measured / expected = {ratio:.3f}")
    assert abs(ratio - 1) < TOLERANCE


def test_there_are_anchors_of_three_kinds_of_device():
    assert len(ANCHORS) >= 6 and {row["device"] for row in ANCHORS} >= {"orin-agx-64", "thor", "rtx-4090"}


def test_the_work_is_that_of_the_network():
    """Operations of the listed products against the weights of the network itself."""
    config = PRESETS["pi0"]
    with torch.device("meta"):
        model = Pi0(config)
    chunk = Chunk(config, BF16_POLICY, cameras=2, tokens=48, steps=10)
    linears = [path for path, _ in model.named_parameters() if path.endswith(".weight") and "layers" in path]
    for stage, rows, times in (("vision", 512, 1), ("prefix", 560, 1), ("expert", 50, 10)):
        weights = sum(model.get_parameter(path).numel() for path in linears if path.startswith(stage))
        ours = {"expert": "Euler loop"}.get(stage, stage)
        products = [kernel for kernel in kernels(chunk) if kernel.stage == ours and kernel.name != "attention"]
        found = sum(kernel.operations * kernel.launches for kernel in products)
        assert found == pytest.approx(2 * rows * times * weights, rel=0.01)


def test_weights_take_what_the_reference_says():
    """6.47 GB in 16 bits, less what the last prefix layer has beyond keys and values: q, o and the MLP."""
    unused = 2 * (2 * 2048 * 2048 + 3 * 2048 * 16384)
    assert network_bytes(PRESETS["pi0"], BF16_POLICY) == pytest.approx(6.47e9 - unused, rel=0.003)
    of_prefix_attention = 17 * (2 * 2048 * 2048 + 2 * 2048 * 256)  # 16 bits in `orin`, 8 in the reference
    assert network_bytes(PRESETS["pi0"], ORIN) == pytest.approx(3.65e9 + of_prefix_attention - unused / 2, rel=0.005)


def test_the_launches_are_those_that_the_kernels_page_counts():
    work = kernels(Chunk(PRESETS["pi0"], ORIN, cameras=2, tokens=20, steps=10))
    assert sum(kernel.launches for kernel in work if kernel.stage == "Euler loop") == 10 * (18 * 5 + 7) + 1


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
@pytest.mark.parametrize("scheme", ["bf16", "orin", "int8-w8a8", "int8-w8a16", "fp8-w8a16", "fp8-w8a8"])
def test_the_launches_are_those_of_the_engine(variant: str, scheme: str):
    """Every operator of the stages that a graph is captured from, counted as it runs on the CPU."""
    model, inputs, _ = random_case(variant)
    amax = {path: torch.ones(m.in_features) for path, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    chosen, tables = find_scheme(scheme), step_tables(model, euler_times(2), CPU)
    network, images = CudaNetwork(quantized(model, chosen, amax), CPU), inputs.images[0]
    with torch.no_grad():  # where torch takes its composite operators apart
        prefix = PrefixStage(network, len(images), 7)
        prefix.load(images, inputs.tokens[0])
        loop = LoopStage(network, tables, prefix.cache)
        with Launches() as of_prefix:
            prefix.run()
        with Launches() as of_loop:
            loop.run()
    work = list(kernels(Chunk(model.config, chosen, len(images), tokens=7, steps=2)))
    expected = Counter[bool]()
    for kernel in work:
        expected[kernel.stage in ("vision", "prefix")] += kernel.launches
    assert (of_prefix.count, of_loop.count) == (expected[True], expected[False])


@pytest.mark.parametrize("device", ["thor", "h200"])
def test_fp8_beats_16_bits_by_torch_s_product_of_many_tokens(device: str, monkeypatch):
    """Ours, which is taken apart into FP16 products there (docs/kernels.md), would make the prefix slower than bf16."""
    where, three = find_device(device), (PRESETS["pi0"], find_scheme("fp8-w8a8"), 3, 20)
    sixteen = estimate_chunk(where, PRESETS["pi0"], BF16_POLICY, 3, 20)
    by_torch = estimate_chunk(where, *three)
    monkeypatch.setattr(work, "_by_torch", lambda chunk, stage, path: chunk.scheme.rule_for(path) is None)
    by_ours = estimate_chunk(where, *three)
    assert by_torch.expected_ms < sixteen.expected_ms
    assert by_torch.stages_ms[Stage.PREFIX] < sixteen.stages_ms[Stage.PREFIX] < by_ours.stages_ms[Stage.PREFIX]
    assert by_torch.stages_ms[Stage.EULER] == by_ours.stages_ms[Stage.EULER]


def test_torch_multiplies_fp8_at_its_own_rate_and_in_its_own_tiles():
    h200, rows = find_device("h200"), 788
    found = kernel_time(replace(one_product("fp8", rows), code="torch product"), h200)
    assert found.body_ms == pytest.approx(1e15 * 896 / rows / (h200.reached["fp8"].value * 1e9))
    assert h200.reached["fp8"].value > h200.reached["bf16"].value > h200.reached["fp8_mma_sync"].value


def test_a_device_that_the_kernels_cannot_run_on_says_so():
    library = emulated_library()
    try:
        for device in devices().values():
            library.shared_memory(device.shared_kb * 1024)
            refused = False
            try:
                library.require_device()
            except KernelError:
                refused = True
            assert device.runs_kernels is not refused, device.key
    finally:
        library.shared_memory()
    with pytest.raises(ConfigError, match=r"does not run on GeForce RTX 4090: .* 156 KB .* gives it 99 KB"):
        estimate("rtx-4090")
    ran = run("estimate", "--device", "rtx-4090")
    assert (ran.code, ran.err.count("\n")) == (2, 1) and "99 KB" in ran.err


@pytest.fixture
def of_the_audit(monkeypatch, tmp_path: Path):
    """The table alone, without what this version's kernels compile to, and no weights that are asked for ahead.

    INT8 products are in no table; the audit's took whole tiles and had longer loops.
    """
    monkeypatch.setattr(work, "_ahead", lambda chunk, layers: layers)
    monkeypatch.setattr(kernel_times, "RESOURCES", tmp_path / "none.csv")
    kernel_times.kernel_cycles.cache_clear()
    yield
    kernel_times.kernel_cycles.cache_clear()


AUDIT_MS = {Stage.VISION: 18.8 - 1.8, Stage.PREFIX: 50.9 - 7.7 - 2.4, Stage.EULER: 30.2 - 1.5}
"""By stage, what an unpublished audit of the compiled kernels expects of AGX Orin, π0, orin, two cameras, 20 tokens.
Less what is no longer there: its 1.8 ms of vision for torch's GELU and additions of the residual, its 2.5 ms for a pass
of the state's token, which goes with the first Euler step, and 7.7 ms by tiles of 160 rows, of its table of shapes:
17 layers times 265 µs of gate and up, 132 of down, 37 of q, k and v, 17 of o. Then by what `pi0-edge estimate` said
before and says without: 2.4 ms by a last tile of rows that does the work of its 52 rows instead of 160, and 1.5 by 350
norms of the expert that the products around them do."""
GONE_MS = 1.8 + 2.5 + 7.7 + 2.4 + 1.5


@pytest.mark.usefixtures("of_the_audit")
def test_agx_orin_takes_what_the_audit_of_the_machine_code_expects():
    found = estimate("orin-agx-64")
    assert {stage: found.stages_ms[stage] for stage in AUDIT_MS} == pytest.approx(AUDIT_MS, rel=0.12)
    assert found.stages_ms[Stage.STATE] < 0.05
    left = 102 - GONE_MS
    assert found.expected_ms == pytest.approx(left, rel=0.05)
    assert (found.low_ms, found.high_ms) == pytest.approx((left * 90 / 102, left * 120 / 102), rel=0.05)


def test_loops_of_whole_tiles_have_at_least_the_share_of_the_tensor_peak_that_the_audit_found():
    """It read older kernels, which computed the addresses of copies in every step."""
    audit = {64: 47, 128: 73, 144: 65, 160: 89, 192: 62, 256: 68}
    for tile in TILES:
        blocks = tile.per_multiprocessor
        peak = blocks * tile.rows * tile.columns * 64 / MACS_PER_CYCLE
        cycles = (tile.alone, tile.together)[blocks - 1][-1]
        assert audit[tile.rows] <= 100 * peak / cycles < 100, tile


@pytest.mark.usefixtures("of_the_audit")
@pytest.mark.parametrize(
    ("shape", "audit_us"), [((640, 32768, 2048), 1217), ((640, 2048, 16384), 572), ((800, 32768, 2048), 1825 * 5 / 6)]
)
def test_whole_tiles_take_what_the_audit_expects_of_the_planned_tile(shape: tuple[int, int, int], audit_us: float):
    """It names 560 and 788 rows, for which its kernels did the work of 640 and 800: four and five tiles of 160."""
    m, n, k = shape
    one = Kernel(Stage.PREFIX, "gate", m, "product", shape, 2.0 * m * n * k, "int8", n * k, (m * k, m * n * 2))
    assert 1e3 * kernel_time(one, find_device("orin-agx-64")).body_ms == pytest.approx(audit_us, rel=0.05)


@pytest.mark.usefixtures("of_the_audit")
def test_what_the_compiler_made_takes_the_place_of_the_table(monkeypatch, tmp_path: Path):
    before = kernel_cycles()
    resources = tmp_path / "resources.csv"
    resources.write_text(
        "# a compiler\nuse,kernel,blocks,orin_blocks_per_sm,loop_cycles\n"
        'a,"gemm::weight_only_kernel<gemm::Int8Weights, bf16>",1024,2,1000\n'
        'b,"attention_kernel<bf16, 256, 4, 2, false>",40,2,7\n'  # two share a multiprocessor, in the table one
        'c,"attention_kernel<bf16, 72, 4, 1, false>",128,5,4000\nd,rope_kernel<bf16>,9,8,\n'
    )
    monkeypatch.setattr(kernel_times, "RESOURCES", resources)
    kernel_times.kernel_cycles.cache_clear()
    after = kernel_cycles()
    changed = {name: row.cycles_per_step for name, row in after.items() if row != before[name]}
    assert changed == {"weight-only": 1000, "attention 72": 800}


def test_names_in_resources_are_those_of_kernels_that_are_there():
    with kernel_times.RESOURCES.open() as file:
        there = [row["kernel"] for row in csv.DictReader(line for line in file if not line.startswith("#"))]
    assert set(kernel_times._IN_RESOURCES) <= set(there)


@pytest.mark.parametrize("device", [key for key, device in devices().items() if device.runs_kernels])
@pytest.mark.parametrize("scheme", ["orin", "bf16"])
def test_low_expected_and_high_stand_in_order_and_add_up(device: str, scheme: str):
    found = estimate(device, scheme=scheme)
    assert found.floor_ms <= found.low_ms < found.expected_ms < found.high_ms
    for stage in found.stages:
        assert stage.low_ms < stage.expected_ms < stage.high_ms and stage.floor_ms < stage.expected_ms
        assert set(stage.rests_on) <= set(SPREADS)
    assert sum(found.rests_on.values()) == pytest.approx(found.expected_ms)
    assert ("issue slots" in found.rests_on) == (find_device(device).architecture == 87)
    assert ("issue slots of Orin" in found.rests_on) == (find_device(device).architecture != 87)


def test_time_of_the_loop_goes_with_the_steps():
    one, ten = (estimate("orin-agx-64", steps=steps) for steps in (1, 10))
    by_stage = one.stages_ms, ten.stages_ms
    assert by_stage[1][Stage.EULER] == pytest.approx(10 * by_stage[0][Stage.EULER], rel=0.01)
    assert all(by_stage[0][stage] == by_stage[1][stage] for stage in NETWORK if stage != Stage.EULER)


def test_a_stale_prefix_leaves_state_and_loop():
    found = estimate("orin-agx-64")
    assert found.stale_prefix_ms is not None
    rest = found.stages_ms[Stage.STATE] + found.stages_ms[Stage.EULER]
    assert rest < found.stale_prefix_ms < rest + 0.2
    assert estimate("orin-agx-64", "pi05").stale_prefix_ms is None


def with_expert(weights: Rule) -> Scheme:
    return Scheme("w4", "expert in INT4", (weights, *ORIN.rules), ORIN.rest)


@pytest.mark.usefixtures("of_the_audit")
def test_four_bits_halve_the_weights_and_are_bound_by_arithmetic():
    """Of a weight-only product like that for INT8, which unpacks as many weights a cycle, whatever memory gives."""
    eight, four = (
        estimate("orin-agx-64", scheme=with_expert(Rule(("expert.layers.*",), weights, BF16)))
        for weights in (Rule(("*",)).weights, INT4_TENSOR)
    )
    assert four.weight_bytes < eight.weight_bytes - 0.4 * 311e6
    assert four.stages_ms[Stage.EULER] < eight.stages_ms[Stage.EULER] - 3
    assert four.rests_on["issue slots"] == pytest.approx(eight.rests_on["issue slots"])
    assert four.rests_on["no such kernel"] > 8 and "no such kernel" not in eight.rests_on
    assert "INT4" in four.unbuilt and not eight.unbuilt


def test_int4_arithmetic_is_refused_where_no_tensor_core_has_it():
    scheme = with_expert(Rule(("prefix.layers.*",), INT4_TENSOR, INT4_TENSOR))
    assert estimate("orin-agx-64", scheme=scheme).expected_ms < estimate("orin-agx-64").expected_ms
    with pytest.raises(ConfigError, match="no INT4 tensor cores for w4; use orin or orin-expert4"):
        estimate("h200", scheme=scheme)
    assert {estimate("h200", scheme=named).scheme for named in ("orin", "orin-expert4")} == {"orin", "orin-expert4"}


def one_product(unit: Unit, rows: int, **fields: Any) -> Kernel:
    """A product that nothing but arithmetic holds up."""
    code = "weight-only product" if unit == "bf16" else "product"
    return Kernel(Stage.PREFIX, "gate", rows, code, (rows, 2048, 2048), 1e15, unit, **fields)


@pytest.mark.parametrize("unit", ["int8", "int4", "bf16"])
def test_a_kernel_that_is_not_there_is_no_machine_code(unit: Unit):
    """Of W4A4 and of W4A16, which wait for the tensor cores alike."""
    there, missing = (
        kernel_time(one_product(unit, 560, unbuilt=unbuilt), find_device("orin-agx-64")) for unbuilt in (False, True)
    )
    assert (there.basis, missing.basis) == ("issue slots", "no such kernel")
    assert there.body_ms == missing.body_ms
    assert SPREADS[missing.basis] == (0.7, 1.6)


def test_kernels_for_int4_are_those_that_are_not_there():
    chunk = Chunk(PRESETS["pi0"], find_scheme("orin-prefix4"), cameras=2, tokens=20, steps=10)
    missing = {(str(kernel.stage), kernel.code) for kernel in kernels(chunk) if kernel.unbuilt}
    assert {stage for stage, _ in missing} == {"prefix", "Euler loop"}
    assert {code for _, code in missing} == {"product", "weight-only product"}
    assert not any(kernel.unbuilt for kernel in kernels(replace(chunk, scheme=ORIN)))


@pytest.mark.parametrize(
    ("device", "of_memory"), [("orin-agx-64", "rate measured"), ("orin-nx-16", "rate scaled"), ("thor", "rate scaled")]
)
def test_what_waits_for_memory_rests_on_the_rate_that_it_waits_for(device: str, of_memory: str):
    """Thor's bandwidth is scaled from Orin's, and nobody measured any cache for us."""
    where = find_device(device)
    weights = Kernel(Stage.PREFIX, "gate", 1, weight_bytes=1e9)
    spilled = Kernel(Stage.PREFIX, "norm", 1, activation_bytes=(2e6 * where.l2_mb,))
    cached = Kernel(Stage.PREFIX, "norm", 1, activation_bytes=(1e5, 1e5))
    found = [kernel_time(kernel, where) for kernel in (weights, spilled, cached)]
    assert [each.basis for each in found] == [of_memory, of_memory, "rate modelled"]
    assert all(each.on_memory for each in found)
    rate = where.reached["gb_s"].value
    assert found[0].body_ms == pytest.approx(1e3 / rate)


@pytest.mark.parametrize(("rows", "padded"), [(788, 864), (560, 576), (64, 64), (20, 64)])
def test_fp8_products_are_padded_to_the_tiles_that_fp8_has(rows: int, padded: int):
    """144 and 192 rows, and 64; INT8 has 160 too, of which 788 rows fill five."""
    h200 = find_device("h200")
    fp8, int8 = (kernel_time(one_product(unit, rows), h200).body_ms for unit in ("fp8", "int8"))
    assert fp8 == pytest.approx(1e15 * padded / rows / (h200.reached["fp8_mma_sync"].value * 1e9))
    assert int8 == pytest.approx(1e15 * min(padded, 800) / rows / (h200.reached["int8"].value * 1e9))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--device", "thor"), "machine code of our kernels for Orin, as many cycles assumed here"),
        (("--scheme", "orin-prefix4"), "no kernel of ours multiplies INT4: taken as the one for INT8"),
    ],
)
def test_the_command_has_words_for_what_times_rest_on(monkeypatch, arguments: tuple[str, str], words: str):
    monkeypatch.setenv("COLUMNS", "240")
    ran = run("estimate", *arguments, "--json")
    assert ran.code == 0
    assert words in ran.err


def test_few_blocks_leave_a_large_gpu_idle():
    """A loop of small kernels: an H200 has 25 times the memory bandwidth of an AGX Orin, and is not 8 times as fast."""
    orin, h200 = (estimate(device).stages_ms[Stage.EULER] for device in ("orin-agx-64", "h200"))
    assert 3 < orin / h200 < 8


@pytest.mark.parametrize("device", devices())
def test_every_device_has_all_rates_with_their_sources(device: str):
    found = find_device(device)
    ours = {"fp8_mma_sync"} if found.has_fp8 else set()
    assert set(found.reached) == {*found.sheet, *ours, "launch_us", "ramp_us", "l2_gb_s"}
    for rate, figure in found.reached.items():
        assert figure.basis in ("measured", "scaled", "modelled") and figure.source
        assert figure.value <= found.sheet.get(rate.partition("_mma")[0], figure.value)


def test_the_help_names_every_device():
    out = " ".join(run("estimate", "--help").out.replace("│", " ").split())
    assert all((key in out) is device.runs_kernels for key, device in devices().items())


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name.startswith(("bf16", "orin", "int8", "fp8-w8a16"))])
def test_more_cameras_cost_more(scheme: str):
    one, two = (estimate_chunk(find_device("orin-agx-64"), PRESETS["pi0"], find_scheme(scheme), n, 20) for n in (1, 2))
    assert one.floor_ms < two.floor_ms and one.expected_ms < two.expected_ms


def test_fp8_arithmetic_on_orin_is_refused_with_the_alternative():
    with pytest.raises(ConfigError, match="no FP8 tensor cores for fp8-w8a8; use fp8-w8a16 or orin"):
        estimate_chunk(find_device("orin-agx-64"), PRESETS["pi0"], find_scheme("fp8-w8a8"), 2, 20)


@pytest.mark.parametrize(("device", "fits"), [("orin-agx-64", True), ("orin-nano-super", False)])
def test_memory_decides_whether_it_fits(device: str, fits: bool):
    assert estimate_chunk(find_device(device), PRESETS["pi0"], BF16_POLICY, 2, 20).fits == fits


def test_the_command_says_what_is_measured_and_what_is_modelled():
    ran = run("estimate", "--device", "orin-agx-64", "--cameras", 2, "--json")
    assert ran.code == 0
    assert ran.result["floor_ms"] < ran.result["low_ms"] < ran.result["expected_ms"] < ran.result["high_ms"]
    assert [stage["name"] for stage in ran.result["stages"]] == ["vision", "prefix", "state", "Euler loop"]
    assert sum(ran.result["rests_on_ms"].values()) == pytest.approx(ran.result["expected_ms"])
    assert all(words in ran.err for words in ("modelled", "measured", "--stale-prefix", "issue slots"))


def test_an_unknown_device_is_one_line():
    ran = run("estimate", "--device", "orin")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "orin-agx-64" in ran.err
