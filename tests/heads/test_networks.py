"""What every head has to hold: seeds, batches, padding, learning; and what each adds."""

from __future__ import annotations

import dataclasses

import head_cases
import pytest
import torch
from head_cases import DIMS, HORIZON, PADDED, chunks_of, config_of, inputs_of, network_of, noise_of, two_ways

from pi0_edge.errors import ConfigError
from pi0_edge.heads import HEADS, fit_actions, parameter_counts, sequential_calls, training_times
from pi0_edge.heads.network import row_generators
from pi0_edge.heads.octo import STEPS, OctoNetwork
from pi0_edge.heads.rt2 import Rt2Network, to_bins
from pi0_edge.heads.schedules import kept_shares
from pi0_edge.heads.tinyvla import TinyVlaNetwork
from pi0_edge.model import PRESETS, Guidance, ModelInputs

OTHERS = [head for head in HEADS if head != "flow"]


@pytest.mark.parametrize("head", HEADS)
def test_the_same_noise_gives_the_same_chunk_alone_and_in_a_batch(head):
    model, inputs = network_of(head, decoding="sampled"), inputs_of(3)
    noise = noise_of(3, model.config)
    together = chunks_of(model, inputs, noise)
    assert together.shape == (3, HORIZON, PADDED) and together.isfinite().all()
    assert torch.equal(together, chunks_of(model, inputs, noise))
    for row in range(3):
        alone = ModelInputs(**{field: value[row : row + 1] for field, value in vars(inputs).items()})
        torch.testing.assert_close(
            chunks_of(model, alone, noise[row : row + 1])[0], together[row], atol=2e-4, rtol=1e-4
        )


@pytest.mark.parametrize("head", ["flow", "rt2", "octo", "tinyvla"])
def test_another_noise_gives_another_chunk(head):
    model, inputs = network_of(head, decoding="sampled"), inputs_of(1)
    one, other = (chunks_of(model, inputs, noise_of(1, model.config, seed)) for seed in (1, 2))
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("head", ["mse", "rt2"])
def test_without_sampling_the_noise_has_no_part_in_the_chunk(head):
    model, inputs = network_of(head), inputs_of(1)
    one, other = (chunks_of(model, inputs, noise_of(1, model.config, seed)) for seed in (1, 2))
    assert torch.equal(one, other)


@pytest.mark.parametrize("head", OTHERS)
def test_padded_dimensions_are_zero_in_chunk_and_loss(head):
    model, inputs = network_of(head), inputs_of(2)
    noise = noise_of(2, model.config)
    assert (chunks_of(model, inputs, noise)[..., DIMS:] == 0).all()
    loss = model.loss(inputs, noise, noise, training_times(model, 2))
    assert loss.shape == (2, HORIZON, PADDED) and (loss[..., DIMS:] == 0).all() and (loss[..., :DIMS] > 0).any()


@pytest.mark.parametrize("head", HEADS)
def test_prompts_of_different_length_share_a_batch(head):
    model, inputs = network_of(head), inputs_of(2)
    ragged = dataclasses.replace(inputs, token_mask=torch.tensor([[True, True, True], [True, True, False]]))
    noise = noise_of(2, model.config)
    short = ModelInputs(**{field: value[1:] for field, value in vars(inputs).items()})
    short = dataclasses.replace(short, tokens=short.tokens[:, :2], token_mask=short.token_mask[:, :2])
    alone = chunks_of(model, short, noise[1:])
    torch.testing.assert_close(chunks_of(model, ragged, noise)[1:], alone, atol=2e-4, rtol=1e-4)
    loss = model.loss(ragged, noise, noise, torch.full((2,), 0.5))[1:]
    torch.testing.assert_close(
        loss, model.loss(short, noise[1:], noise[1:], torch.full((1,), 0.5)), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("head", HEADS)
def test_one_batch_is_learned_by_heart(head):
    model, inputs = network_of(head), inputs_of(4)
    chunks = two_ways(4, torch.Generator().manual_seed(3))
    fit_actions(model, chunks.flatten(0, 1))
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=3e-3)
    draws = 8 if HEADS[head].uses_noise else 1
    losses, generator = [], torch.Generator().manual_seed(0)
    for _ in range(60):
        noise = torch.randn(4 * draws, *chunks.shape[1:], generator=generator)
        loss = model.loss(inputs, chunks, noise, training_times(model, 4 * draws, generator))[..., :DIMS].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


@pytest.mark.parametrize("head", OTHERS)
def test_real_time_chunking_is_refused_in_words(head):
    model, inputs = network_of(head), inputs_of(1)
    noise = noise_of(1, model.config)
    guidance = Guidance(noise, torch.ones(HORIZON, PADDED), 10.0)
    with pytest.raises(ConfigError, match=f"the head {head} has none"):
        model.sample_actions(inputs, noise, torch.ones(1), guidance)


@pytest.mark.parametrize("head", HEADS)
def test_every_learned_parameter_has_a_gradient_and_nothing_else_has(head):
    model, inputs = network_of(head), inputs_of(3)
    noise = noise_of(3, model.config)
    model.loss(inputs, noise * 0.5, noise, training_times(model, 3, torch.Generator().manual_seed(2))).sum().backward()
    without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert without == set()
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert fixed == ({"range.middle", "range.half_width"} if head in ("rt2", "tinyvla") else set())


# RT-2.


def test_the_cached_decoder_chooses_what_the_whole_sequence_predicts():
    model, inputs = network_of("rt2"), inputs_of(2)
    assert isinstance(model, Rt2Network)
    chunk = chunks_of(model, inputs, noise_of(2, model.config))
    tokens = to_bins(model.range.shrink(chunk[..., :DIMS])).flatten(1)
    with torch.inference_mode():
        predicted = model.logits(model.attend(inputs), tokens).argmax(-1)
    assert torch.equal(predicted.clamp(max=254), tokens)


def test_a_token_is_predicted_from_earlier_ones_alone():
    model, inputs = network_of("rt2"), inputs_of(1)
    assert isinstance(model, Rt2Network)
    tokens = torch.randint(256, (1, model.tokens), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 100) % 256
    with torch.inference_mode():
        context = model.attend(inputs)
        difference = (model.logits(context, tokens) - model.logits(context, changed)).abs().amax(-1)[0]
    assert (difference[:6] == 0).all() and (difference[6:] > 0).all()


def test_the_range_of_the_bins_is_from_quantile_to_quantile_and_never_nothing():
    model = network_of("rt2")
    actions = torch.stack((torch.linspace(-2, 4, 1001), torch.full((1001,), 0.7), torch.zeros(1001)), 1)
    fit_actions(model, actions)
    assert isinstance(model, Rt2Network)
    shrunk = model.range.shrink(torch.tensor([[-1.94, 0.7], [3.94, 0.7]]))
    torch.testing.assert_close(shrunk, torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), atol=1e-5, rtol=0)
    assert model.range.half_width[1] > 0


# Diffusion.


def test_octo_ends_at_the_chunk_where_the_noise_is_known(monkeypatch):
    """A score network that knows the chunk leads to it through all twenty steps, and every sample is within ±5."""
    model, inputs = network_of("octo"), inputs_of(1)
    assert isinstance(model, OctoNetwork)
    chunk = torch.linspace(-1, 1, HORIZON * DIMS)[None]
    kept = kept_shares(STEPS).float()
    seen = []

    def knows(observed: torch.Tensor, x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        seen.append(x.abs().max().item())
        return (x - kept[step[0]].sqrt() * chunk) / (1 - kept[step[0]]).sqrt()

    monkeypatch.setattr(model.score, "forward", knows)
    found = chunks_of(model, inputs, 30 * noise_of(1, model.config))
    torch.testing.assert_close(found[..., :DIMS].flatten(1), chunk, atol=1e-4, rtol=0)
    assert len(seen) == 20 and max(seen[1:]) <= 5.0


def test_tinyvla_gives_actions_within_the_range_of_training():
    model, inputs = network_of("tinyvla"), inputs_of(4)
    assert isinstance(model, TinyVlaNetwork)
    fit_actions(model, torch.tensor([[-3.0, 0.0, 0.0], [1.0, 2.0, 0.0]]))
    chunk = chunks_of(model, inputs, 3 * noise_of(4, model.config))[..., :DIMS]
    assert (chunk >= torch.tensor([-3.0, 0.0]) - 1e-4).all() and (chunk <= torch.tensor([1.0, 2.0]) + 1e-4).all()


@pytest.mark.parametrize(("head", "steps"), [("octo", 21), ("tinyvla", 101)])
def test_more_steps_than_were_trained_are_refused(head, steps):
    model = network_of(head)
    with pytest.raises(ConfigError, match="expected 1 to"):
        chunks_of(model, inputs_of(1), noise_of(1, model.config), steps)


def test_rows_draw_from_generators_that_only_their_own_noise_decides():
    noise = noise_of(3, config_of("octo"))
    seeds = [generator.initial_seed() for generator in row_generators(noise)]
    assert len(set(seeds)) == 3
    assert [generator.initial_seed() for generator in row_generators(noise[1:2])] == seeds[1:2]


# Sizes.


def test_calls_and_parameters_are_counted():
    cube = PRESETS["pi0-cube"]
    calls = {
        head: sequential_calls(dataclasses.replace(cube, head=head, real_dims=0 if head == "flow" else 14), one.steps)
        for head, one in HEADS.items()
        if head != "tinyvla"
    }
    assert {head: found.total for head, found in calls.items()} == {"flow": 10, "rt2": 700, "octo": 21, "mse": 1}
    assert calls["octo"].denoiser == 20
    for head in HEADS:
        model = network_of(head)
        counts = parameter_counts(model)
        assert counts["total"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert counts["expert"] == parameter_counts(network_of("flow"))["expert"]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"head": "rt3"}, "expected one of flow"),
        ({"head": "tinyvla", "horizon": 6}, "no multiple of 4"),
        ({"head": "octo", "trained_delay": 2}, "without a frozen prefix"),
        ({"head": "octo", "real_dims": PADDED + 1}, "expected 0 to action_dim"),
        ({"head": "mse", "variant": "pi05"}, "stands on a π0"),
        ({"decoding": "beam"}, "expected greedy or sampled"),
    ],
)
def test_impossible_heads_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(head_cases.SMALL, **sizes)
