"""Stacks of the C library against the modules whose place they take, with every set of instructions."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import pytest
import torch
from native_levels import LEVELS, compiled, used

from pi0_edge.bench.random_weights import random_observation, random_parameters
from pi0_edge.engine import assemble_engine, build_engine
from pi0_edge.engine.cpu import CpuEngine, engine
from pi0_edge.engine.cpu.stacks import ExpertStack, PrefixStack, VisionStack
from pi0_edge.engine.loading import blank_model, fill_model
from pi0_edge.model import Pi0, Pi0Config
from pi0_edge.model.config import GemmaConfig, VisionConfig
from pi0_edge.model.inputs import ModelInputs, join
from pi0_edge.model.rtc import FrozenPrefix
from pi0_edge.quant import INT8_W8A8, ORIN, QuantizationError, compare_actions
from pi0_edge.quant.native import Level

# Widths that fill no panel and no group of 4, two heads of keys, an odd number of image tokens.
SIZES = Pi0Config(
    "pi0",
    VisionConfig(width=36, depth=2, mlp_dim=50, heads=3, patch_size=14, image_size=42),
    GemmaConfig(width=42, depth=3, mlp_dim=70, heads=4, kv_heads=2, head_dim=10),
    GemmaConfig(width=38, depth=3, mlp_dim=66, heads=4, kv_heads=2, head_dim=10),
    vocab_size=64,
    action_dim=8,
    horizon=7,
    max_prompt_tokens=12,
    trained_delay=3,
)
CONFIGS = {
    "pi0": SIZES,
    "pi05": replace(SIZES, variant="pi05"),
    "mse": replace(SIZES, head="mse", trained_delay=0),
    "rt2": replace(SIZES, head="rt2", trained_delay=0, horizon=1),
}
pytestmark = compiled


@cache
def with_stacks(kind: str) -> CpuEngine:
    return CpuEngine(quantized(kind))


@cache
def without_stacks(kind: str) -> CpuEngine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "use_stacks", lambda model: None)
        return CpuEngine(quantized(kind))


def quantized(kind: str):
    model = blank_model(CONFIGS[kind])
    generator = torch.Generator().manual_seed(7)

    def parameters():
        for name, tensor in random_parameters(CONFIGS[kind]):
            # Modulations and biases that are zero would hide a mistake in them.
            yield name, tensor + 0.1 * torch.randn(tensor.shape, generator=generator)

    fill_model(model, parameters(), INT8_W8A8)
    return model


def observation(kind: str, cameras: int = 2, tokens: int = 5, seed: int = 1) -> tuple[ModelInputs, torch.Tensor]:
    inputs, noise = random_observation(CONFIGS[kind], cameras, tokens)
    generator = torch.Generator().manual_seed(seed)
    return replace(inputs, state=torch.randn(inputs.state.shape, generator=generator)), noise * (1 + seed / 10)


def ragged(kind: str) -> tuple[ModelInputs, torch.Tensor]:
    """Three rows: other prompts, and a camera that is missing in the second one."""
    rows = [observation(kind, 2, tokens, seed) for seed, tokens in enumerate((5, 3, 8))]
    inputs = join([row for row, _ in rows])
    mask = inputs.image_mask.clone()
    mask[1, 0] = False
    return replace(inputs, image_mask=mask), torch.cat([noise for _, noise in rows])


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_part_that_fits_is_a_stack(kind: str):
    model = with_stacks(kind).model
    assert [type(layer) for layer in model.vision.layers] == [VisionStack]
    assert isinstance(model.prefix, PrefixStack)
    assert isinstance(model.expert, ExpertStack) == (kind != "rt2"), "RT-2's head reads single layers"


def test_other_schemes_keep_their_layers():
    model = Pi0(CONFIGS["pi0"]).eval()
    built = build_engine("cpu", model, ORIN)
    assert isinstance(built, CpuEngine)
    assert not any(isinstance(m, (VisionStack, PrefixStack, ExpertStack)) for m in built.model.modules())


@pytest.mark.parametrize("level", LEVELS)
def test_the_engine_says_on_which_instructions_its_stacks_run(level: Level):
    with used(level):
        assert with_stacks("pi0").instructions == level.name
        assert without_stacks("pi0").instructions == "none"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_actions_are_those_of_the_layers_one_by_one(kind: str, level: Level):
    """Sums of linears are equal; attention in INT8 is off by what rounds to 8 bits, as every linear is."""
    inputs, noise = observation(kind)
    expected = without_stacks(kind).infer(inputs, noise)
    with used(level):
        found = compare_actions(expected, with_stacks(kind).infer(inputs, noise))
    assert found.relative_error < 0.05, found


@pytest.mark.parametrize("kind", ["mse", "rt2"])
def test_other_heads_give_what_they_give_without(kind: str):
    inputs, noise = observation(kind)
    expected = without_stacks(kind).infer(inputs, noise)
    assert compare_actions(expected, with_stacks(kind).infer(inputs, noise)).relative_error < 0.05


@pytest.mark.parametrize("kind", ["pi0", "mse"])
def test_a_ragged_batch_gives_what_the_layers_give(kind: str):
    inputs, noise = ragged(kind)
    expected = without_stacks(kind).infer(inputs, noise)
    assert compare_actions(expected, with_stacks(kind).infer(inputs, noise)).relative_error < 0.05


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
@torch.inference_mode()
def test_rows_of_a_ragged_batch_are_bit_for_bit_what_they_are_alone(kind: str):
    model, lengths = with_stacks(kind).model, torch.tensor([9, 4, 7])
    generator = torch.Generator().manual_seed(5)
    prefix = torch.randn(3, 9, SIZES.prefix.width, generator=generator)
    tokens = torch.randn(3, 7, SIZES.expert.width, generator=generator)
    mask = torch.arange(9) < lengths[:, None]
    seen, positions = model.prefix(prefix, mask), lengths[:, None] + torch.arange(7)
    assert isinstance(model, Pi0)
    modulations = model.condition(torch.tensor([0.5])).modulations
    out = model.expert(tokens, positions, seen, torch.nn.functional.pad(mask, (0, 7), value=True), modulations)
    for row, length in enumerate(lengths.tolist()):
        own = slice(row, row + 1)
        alone = model.prefix(prefix[own, :length], None)
        for together, single in zip(seen, alone, strict=True):
            assert torch.equal(together.keys[own, :length], single.keys)
            assert torch.equal(together.values[own, :length], single.values)
        assert torch.equal(out[own], model.expert(tokens[own], positions[own], alone, None, modulations))


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_frozen_actions_have_a_time_of_their_own(kind: str):
    """Modulations and time biases per action."""
    inputs, noise = observation(kind)
    continuation = FrozenPrefix(torch.randn(noise.shape, generator=torch.Generator().manual_seed(3)), 3)
    expected = without_stacks(kind).infer(inputs, noise, continuation)
    found = with_stacks(kind).infer(inputs, noise, continuation)
    assert compare_actions(expected, found).relative_error < 0.05
    assert torch.equal(found[:, :3], continuation.previous[:, :3])


LARGE = replace(  # a layer has more than 2**25 multiplications, so that the library uses a team of threads
    SIZES,
    vision=VisionConfig(width=256, depth=1, mlp_dim=1024, heads=4, patch_size=14, image_size=224),
    prefix=GemmaConfig(width=256, depth=2, mlp_dim=1024, heads=4, kv_heads=1, head_dim=64),
    expert=GemmaConfig(width=1024, depth=2, mlp_dim=1024, heads=4, kv_heads=1, head_dim=64),
    horizon=50,
)


def with_threads(compute: Callable[[], list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    """The same with 1, 2 and 3 threads."""
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(compute())
    finally:
        torch.set_num_threads(threads)
    return found


def test_the_number_of_threads_changes_next_to_nothing():
    """Only torch's own linears sum otherwise."""
    built = assemble_engine("cpu", LARGE, random_parameters(LARGE))
    built.times = built.times[:2]
    inputs, noise = random_observation(LARGE, 2, 9)
    found = [chunk for (chunk,) in with_threads(lambda: [built.infer(inputs, noise)])]
    assert compare_actions(found[0], found[1]).relative_error < 1e-3
    assert compare_actions(found[0], found[2]).relative_error < 1e-3


@torch.inference_mode()
def test_the_number_of_threads_changes_no_bit_of_a_stack():
    """No sum is divided among threads, whatever their number."""
    built = assemble_engine("cpu", LARGE, random_parameters(LARGE))
    assert isinstance(built, CpuEngine) and isinstance(built.model, Pi0)
    model, generator = built.model, torch.Generator().manual_seed(2)
    images = torch.randn(2, 256, LARGE.vision.width, generator=generator)
    prefix = torch.randn(1, 521, LARGE.prefix.width, generator=generator)
    tokens = torch.randn(1, 51, LARGE.expert.width, generator=generator)
    positions = 521 + torch.arange(51)[None]

    def compute() -> list[torch.Tensor]:
        seen = model.prefix(prefix, None)
        caches = [part for layer in seen for part in (layer.keys, layer.values)]
        return [model.vision.layers[0](images), *caches, model.expert(tokens, positions, seen, None, None)]

    first, *others = with_threads(compute)
    assert len(first) == 2 + 2 * LARGE.prefix.depth and all(bool(part.any()) for part in first)
    for other in others:
        for one, part in zip(first, other, strict=True):
            assert torch.equal(one, part)


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
@pytest.mark.parametrize("where", ["images", "state", "noise"])
def test_what_is_not_finite_is_refused_and_leaves_nothing_behind(kind: str, where: str):
    inputs, noise = observation(kind)
    before = with_stacks(kind).infer(inputs, noise)
    bad_noise, bad = noise.clone(), {name: getattr(inputs, name).clone() for name in ("images", "state")}
    {**bad, "noise": bad_noise}[where].view(-1)[0] = float("nan")
    if kind == "pi05" and where == "state":
        pytest.skip("π0.5 reads its state from the prompt")
    with pytest.raises(QuantizationError, match="NaN or infinity"):
        with_stacks(kind).infer(replace(inputs, **bad), bad_noise)
    assert torch.equal(with_stacks(kind).infer(inputs, noise), before)


def test_a_context_is_read_again_when_it_is_another_one():
    """Chunks for two observations in turns, as a server makes them."""
    first, second = observation("pi0", 1, 4, 1), observation("pi0", 1, 4, 2)
    expected = [with_stacks("pi0").infer(*each) for each in (first, second)]
    assert not torch.equal(expected[0], expected[1])
    for _ in range(2):
        for each, answer in zip((first, second), expected, strict=True):
            assert torch.equal(with_stacks("pi0").infer(*each), answer)


def test_chunks_at_the_same_time_do_not_disturb_each_other():
    """Calls share the workspace that one of them leaves behind."""
    kinds = ("pi0", "pi05", "mse")
    expected = {kind: with_stacks(kind).infer(*observation(kind)) for kind in kinds}

    def chunks(kind: str) -> list[torch.Tensor]:
        return [with_stacks(kind).infer(*observation(kind)) for _ in range(10)]

    with ThreadPoolExecutor(len(kinds)) as pool:
        for kind, found in zip(kinds, pool.map(chunks, kinds), strict=True):
            assert all(torch.equal(chunk, expected[kind]) for chunk in found)


def test_the_model_of_a_caller_is_not_needed_afterwards():
    model = quantized("pi0")
    built = CpuEngine(copy.deepcopy(model))
    del model
    inputs, noise = observation("pi0")
    assert torch.equal(built.infer(inputs, noise), with_stacks("pi0").infer(inputs, noise))
