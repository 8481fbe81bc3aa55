"""The OpenVINO engine: its actions against the reference and against our own INT8, and what it keeps and refuses."""

import copy
import logging
import re
import resource
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch
from golden_vectors import load_golden
from policy_builders import CONFIG
from tensorrt_cases import first_row, largest_inputs

from pi0_edge.engine import build_engine, find_engine
from pi0_edge.engine import openvino as openvino_engine
from pi0_edge.engine.cpu import CpuEngine
from pi0_edge.engine.openvino import OpenVinoEngine
from pi0_edge.errors import EngineError
from pi0_edge.model import ModelInputs, Pi0
from pi0_edge.model.flow import euler_times
from pi0_edge.model.precision import apply_bf16_policy
from pi0_edge.model.rtc import FrozenPrefix, Guidance
from pi0_edge.openvino.program_cache import ProgramCache
from pi0_edge.quant import compare_actions, find_scheme, quantize_model
from pi0_edge.quant.quantized_linear import QuantizedLinear
from pi0_edge.tensorrt.programs import Shape

pytestmark = pytest.mark.system

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'pi0-edge[openvino]'")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'pi0-edge[openvino]'")

FP32, STATIC = find_scheme("fp32"), find_scheme("int8-w8a8-static")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory) -> Iterator[Path]:
    """The folder that programs are kept in, its own for these tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "pi0-edge" / "openvino"


def small_model() -> Pi0:
    torch.manual_seed(0)
    model = Pi0(CONFIG).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:  # as trained ones: not all alike
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def observation(seed: int = 0, rows: int = 1) -> tuple[ModelInputs, torch.Tensor]:
    random, side = torch.Generator().manual_seed(seed), CONFIG.vision.image_size
    inputs = ModelInputs(
        images=torch.rand(rows, 2, 3, side, side, generator=random) * 2 - 1,
        image_mask=torch.ones(rows, 2, dtype=torch.bool),
        tokens=torch.randint(0, CONFIG.vocab_size, (rows, 5), generator=random),
        token_mask=torch.ones(rows, 5, dtype=torch.bool),
        state=torch.randn(rows, CONFIG.action_dim, generator=random),
    )
    return inputs, torch.randn(rows, CONFIG.horizon, CONFIG.action_dim, generator=random)


@pytest.fixture(scope="module")
def engine() -> OpenVinoEngine:
    """In fp32, of the small model."""
    made = build_engine("openvino", small_model(), FP32)
    assert isinstance(made, OpenVinoEngine)
    return made


@pytest.fixture(scope="module")
def reference():
    return build_engine("reference", small_model())


def test_in_fp32_its_actions_are_the_reference_s(engine, reference):
    inputs, noise = observation()
    found, truth = engine.infer(inputs, noise), reference.infer(inputs, noise)
    assert engine.precision == "f32"
    assert found.dtype == torch.float32 and found.shape == noise.shape
    assert (found - truth).abs().max() < 1e-5
    assert torch.equal(engine.infer(inputs, noise), found)


def test_images_that_lie_scattered_in_memory_are_the_same_images(engine, reference):
    """OpenVINO reads memory that it does not own: what was made for one call must outlive it."""
    inputs, noise = observation(1)
    scattered = inputs.images.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    assert not scattered.is_contiguous()
    moved = ModelInputs(scattered, inputs.image_mask, inputs.tokens, inputs.token_mask, inputs.state)
    assert torch.equal(engine.infer(moved, noise), engine.infer(inputs, noise))


def test_rows_of_a_batch_do_not_touch_each_other(engine, reference):
    inputs, noise = observation(2, rows=2)
    assert (engine.infer(inputs, noise) - reference.infer(inputs, noise)).abs().max() < 1e-5


def test_what_is_masked_has_no_influence(engine):
    inputs, noise = observation(3)
    padded = ModelInputs(
        torch.cat((inputs.images, torch.randn_like(inputs.images[:, :1])), 1),
        torch.tensor([[True, True, False]]),
        torch.cat((inputs.tokens, torch.tensor([[7, 8]])), 1),
        torch.tensor([[True] * 5 + [False] * 2]),
        inputs.state,
    )
    assert torch.equal(engine.infer(padded, noise), engine.infer(inputs, noise))


@pytest.mark.parametrize("steps", [1, 4])
def test_other_euler_steps_need_no_other_program(steps, engine, reference, monkeypatch):
    inputs, noise = observation(4)
    times, kept = euler_times(steps, "exact"), list(engine._compiled)
    for each in (engine, reference):
        monkeypatch.setattr(each, "times", times)
    assert (engine.infer(inputs, noise) - reference.infer(inputs, noise)).abs().max() < 1e-5
    assert list(engine._compiled) == kept


def test_a_chunk_is_guided_as_the_reference_guides_it_and_not_frozen(engine, reference):
    inputs, noise = observation(5)
    plan = torch.randn(noise.shape, generator=torch.Generator().manual_seed(3))
    guidance = Guidance(plan, torch.linspace(1, 0, noise.shape[1])[:, None].expand(noise.shape[1:]), max_weight=10.0)
    found, truth = engine.infer(inputs, noise, guidance), reference.infer(inputs, noise, guidance)
    assert (found - truth).abs().max() < 1e-5
    assert (truth - reference.infer(inputs, noise)).abs().max() > 1e-2
    assert not engine.has_frozen_prefix
    with pytest.raises(EngineError, match=r"the OpenVINO engine continues a chunk by guidance \(splice rtc\) only"):
        engine.infer(inputs, noise, FrozenPrefix(plan, 2))


def test_a_camera_that_is_not_a_number_ends_in_an_error(engine):
    inputs, noise = observation(6)
    inputs.images[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(EngineError, match="NaN or infinity"):
        engine.infer(inputs, noise)


def test_a_program_is_written_once(engine, caplog):
    inputs, noise = observation()
    expected = engine.infer(inputs, noise)
    caplog.set_level(logging.WARNING, "pi0_edge.engine.openvino")
    caplog.clear()  # what the engine wrote for this test, where no other came before
    assert torch.equal(build_engine("openvino", small_model(), FP32).infer(inputs, noise), expected)
    assert not caplog.records


@pytest.mark.slow
def test_a_damaged_program_is_written_again(engine, cache: Path, caplog):
    inputs, noise = observation()
    expected = engine.infer(inputs, noise)
    caplog.set_level(logging.WARNING, "pi0_edge.engine.openvino")
    caplog.clear()  # what the engine wrote for this test, where no other came before
    weights = next(path for path in cache.rglob("program.bin") if path.parent.name.startswith("velocity"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()  # the engine above has the file in its memory
    weights.write_bytes(content)
    assert torch.equal(build_engine("openvino", small_model(), FP32).infer(inputs, noise), expected)
    assert [record.args[0] for record in caplog.records if record.args] == ["velocity"]


def test_a_folder_that_cannot_be_written_is_named(monkeypatch, tmp_path: Path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(EngineError, match=r"cannot be written .* set XDG_CACHE_HOME"):
        build_engine("openvino", small_model(), FP32).infer(*observation())


def test_a_disk_that_is_full_while_openvino_writes_is_one_line(engine, monkeypatch, tmp_path: Path):
    """OpenVINO calls it `RuntimeError: basic_ios::clear: iostream error`."""
    save, before = engine._openvino.save_model, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_on_a_full_disk(*arguments, **options) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            save(*arguments, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(engine._openvino, "save_model", save_on_a_full_disk)
    monkeypatch.setattr(engine, "_cache", ProgramCache(tmp_path))
    with pytest.raises(EngineError, match=r"cannot be written \(.+\); free space there") as it:
        engine._written("velocity", next(iter(engine._compiled)))
    assert "\n" not in str(it.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_program_that_openvino_does_not_read_is_named(engine, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(openvino_engine, "write_onnx", lambda program, path: path.write_bytes(b"no ONNX"))
    monkeypatch.setattr(engine, "_cache", ProgramCache(tmp_path))
    with pytest.raises(EngineError, match=r"^OpenVINO .* does not read velocity: "):
        engine._written("velocity", next(iter(engine._compiled)))


def test_a_program_belongs_to_every_version_that_makes_it(engine, cache: Path):
    engine.programs(Shape(2, 5))
    found = {path.name for path in cache.glob("*/*")}
    for name in ("torch", "onnx", "onnxscript"):
        assert all(f"-{name}-{re.sub('[^A-Za-z0-9.]+', '-', metadata.version(name))}" in folder for folder in found)


def test_only_the_shapes_that_were_used_last_stay_compiled(engine, monkeypatch):
    made = []
    monkeypatch.setattr(engine, "_compiled", {})
    monkeypatch.setattr(engine, "_program", lambda name, shape: made.append((name, shape.tokens)))
    for tokens in (1, 2, 3, 4, 1, 5):
        engine.programs(Shape(2, tokens))
    assert [shape.tokens for shape in engine._compiled] == [3, 4, 1, 5]
    assert made == [(name, tokens) for tokens in (1, 2, 3, 4, 5) for name in ("attend", "velocity")]


def test_weights_of_8_bits_do_not_bring_activations_to_8(engine):
    for program in engine.programs(next(iter(engine._compiled))):
        assert program.compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0
        assert program.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


def quantized(model: Pi0, scheme, inputs, noise) -> tuple[Pi0, torch.Tensor]:
    """The model under a scheme, and what the CPU engine makes of it."""
    amax = largest_inputs(model, inputs, noise) if scheme.needs_calibration else None
    if scheme.rest == "bf16":
        apply_bf16_policy(model)
    quantize_model(model, scheme, amax)
    return model, CpuEngine(copy.deepcopy(model), scheme).infer(inputs, noise)


def kernels(engine: OpenVinoEngine, name: str) -> Counter:
    """How many linears the compiled programs hold, by what multiplies."""
    found: Counter = Counter()
    for program in engine.programs(next(iter(engine._compiled))):
        for node in program.compiled.get_runtime_model().get_ops():
            about = node.get_rt_info()
            if about["layerType"].astype(str) == name:
                found[about["primitiveType"].astype(str).rpartition("_")[2]] += 1
    return found


def test_static_int8_is_our_own_arithmetic_and_runs_in_8_bits():
    inputs, noise = observation()
    model, ours = quantized(small_model(), STATIC, inputs, noise)
    linears = sum(isinstance(layer, QuantizedLinear) for layer in model.modules())
    made = OpenVinoEngine(model, STATIC)
    beside = compare_actions(ours, made.infer(inputs, noise))
    print(f"cosine to the CPU engine {beside.cosine:.7f}")
    assert beside.cosine > 0.9999
    # In the last layer of the prefix and for the state token only keys and values are wanted, see `AttendProgram`.
    assert kernels(made, "FullyConnected")["i8"] >= linears


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["pi0", "pi05"])
@pytest.mark.parametrize("scheme", ["fp32", "bf16", "int8-w8a8-static", "int8-w8a16"])
def test_golden_networks_under_every_scheme(variant: str, scheme: str):
    golden, chosen = load_golden(variant), find_scheme(scheme)
    inputs, noise = first_row(golden.recording.inputs), golden.recording.noise[:1]
    truth = build_engine("reference", copy.deepcopy(golden.model)).infer(inputs, noise)
    model, ours = quantized(golden.model, chosen, inputs, noise)
    made = OpenVinoEngine(model, chosen)
    found = made.infer(inputs, noise)
    beside, to_truth = compare_actions(ours, found), compare_actions(truth, found)
    print(f"{variant} {scheme}: to the CPU engine {beside.cosine:.7f}, to fp32 {to_truth.max_abs_error:.1e}")
    assert beside.cosine > 0.9999
    assert (to_truth.max_abs_error < 1e-5) == (scheme == "fp32")
    assert not kernels(made, "MatMul")  # a weight that is restored at every call is multiplied by one of these


def test_every_device_is_an_engine_of_its_own():
    assert find_engine("openvino:CPU") is OpenVinoEngine.on("CPU")
    OpenVinoEngine.on("CPU").check(FP32)
