"""What is never computed, and the proof that leaving it out changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from golden_vectors import largest, load_golden
from torch import Tensor, nn

from pi0_edge.model import ModelInputs, Pi0
from pi0_edge.model.flow import euler_times
from pi0_edge.model.gemma import KeyValueLayer

EXACT = 1e-5
VARIANTS = ["pi0", "pi05"]


def sample(model: Pi0, inputs: ModelInputs, noise: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.sample_actions(inputs, noise, euler_times(10))


def shapes_seen(module: nn.Module) -> list[tuple[int, ...]]:
    seen: list[tuple[int, ...]] = []
    module.register_forward_hook(lambda _module, args, _out: seen.append(tuple(args[0].shape)))
    return seen


@pytest.mark.parametrize("variant", VARIANTS)
def test_masked_cameras_are_never_computed(variant):
    golden = load_golden(variant)
    seen = shapes_seen(golden.model.vision)
    sample(golden.model, golden.recording.inputs, golden.recording.noise)
    assert seen == [(4, 3, 224, 224)]  # two of three cameras in each of two rows


@pytest.mark.parametrize("variant", VARIANTS)
def test_leaving_the_masked_camera_out_is_exact(variant):
    golden = load_golden(variant)
    inputs, noise = golden.recording.inputs, golden.recording.noise
    without = replace(inputs, images=inputs.images[:, :2], image_mask=inputs.image_mask[:, :2])
    assert largest(sample(golden.model, without, noise), golden.outputs["actions"]) <= EXACT


@pytest.mark.parametrize("variant", VARIANTS)
def test_trimming_prompt_padding_is_exact_and_a_single_row_has_none(variant):
    golden = load_golden(variant)
    inputs, noise = golden.recording.inputs, golden.recording.noise
    seen = shapes_seen(golden.model.prefix)
    for row in range(inputs.batch):
        length = int(inputs.token_mask[row].sum())
        alone = ModelInputs(
            inputs.images[row : row + 1, :2],
            inputs.image_mask[row : row + 1, :2],
            inputs.tokens[row : row + 1, :length],
            inputs.token_mask[row : row + 1, :length],
            inputs.state[row : row + 1],
        )
        actions = sample(golden.model, alone, noise[row : row + 1])
        assert largest(actions, golden.outputs["actions"][row : row + 1]) <= EXACT
        assert seen.pop()[1] == 2 * 256 + length


def test_poisoned_padding_changes_nothing():
    golden = load_golden("pi0")
    inputs, noise = golden.recording.inputs, golden.recording.noise
    images, tokens = inputs.images.clone(), inputs.tokens.clone()
    images[~inputs.image_mask] = torch.nan
    tokens[~inputs.token_mask] = 511
    poisoned = replace(inputs, images=images, tokens=tokens)
    assert torch.equal(sample(golden.model, poisoned, noise), sample(golden.model, inputs, noise))


def test_swapping_two_valid_cameras_does_change_the_actions():
    golden = load_golden("pi0")
    inputs, noise = golden.recording.inputs, golden.recording.noise
    swapped = replace(inputs, images=inputs.images[:, [1, 0, 2]])
    assert largest(sample(golden.model, swapped, noise), golden.outputs["actions"]) > 1e-2


def test_state_token_is_computed_once_per_chunk_and_equals_recomputing_it_every_step():
    golden = load_golden("pi0")
    model, inputs, noise = golden.model, golden.recording.inputs, golden.recording.noise
    seen = shapes_seen(model.state_proj)
    actions = sample(model, inputs, noise)
    assert len(seen) == inputs.batch  # a row at a time
    x, times = noise, euler_times(10)
    with torch.inference_mode():
        prefix = model.attend_prefix(inputs)
        for step in range(10):
            context = model.attend_state(prefix, inputs.state)
            x = x - model.velocity(x, model.condition(times).at(step), context) / 10
    assert largest(actions, x) <= EXACT


def test_last_prefix_layer_has_only_keys_and_values():
    model = load_golden("pi0").model
    assert isinstance(model.prefix.layers[-1], KeyValueLayer)
    names = {name for name, _ in model.prefix.layers[-1].named_parameters()}
    assert names == {"attention_norm.weight", "attention.k.weight", "attention.v.weight"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_tabulated_conditioning_equals_one_time_at_a_time(variant):
    golden = load_golden(variant)
    model, inputs, noise = golden.model, golden.recording.inputs, golden.recording.noise
    times = euler_times(10)
    with torch.inference_mode():
        context = model.attend_state(model.attend_prefix(inputs), inputs.state)
        table = model.condition(times)
        for step in range(10):
            single = model.condition(times[step].expand(inputs.batch))
            tabulated = model.velocity(noise, table.at(step), context)
            assert largest(model.velocity(noise, single, context), tabulated) <= EXACT


@pytest.mark.parametrize("variant", VARIANTS)
def test_noise_draws_that_share_a_prefix_have_the_loss_of_separate_passes(variant):
    golden = load_golden(variant)
    model, inputs = golden.model, golden.recording.inputs
    assert golden.recording.actions is not None
    actions = golden.recording.actions
    noise = torch.randn(2 * inputs.batch, *actions.shape[1:], generator=torch.Generator().manual_seed(1))
    times = torch.tensor([0.1, 0.4, 0.7, 1.0])
    with torch.inference_mode():
        shared = model.loss(inputs, actions, noise, times)
        for draw in range(2):
            alone = model.loss(inputs, actions, noise[draw::2], times[draw::2])
            assert largest(shared[draw::2], alone) <= 1e-4
