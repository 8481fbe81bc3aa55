"""What learns and what does not: tuning, fp32 masters, accumulation, recomputing, prefix cache, watch, validation."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pi0_edge.errors import ConfigError, TrainingError
from pi0_edge.model import GemmaConfig, ModelInputs, Pi0, Pi0Config, VisionConfig
from pi0_edge.model.flow import euler_times, sample_training_times
from pi0_edge.model.precision import apply_bf16_policy
from pi0_edge.training.optimizer import MasterOptimizer
from pi0_edge.training.prefix_cache import PrefixCache
from pi0_edge.training.recomputing import recompute_layers
from pi0_edge.training.sources import Batch
from pi0_edge.training.trainer import TrainConfig, Trainer
from pi0_edge.training.tuning import LORA_PLANS, LoraLinear, choose_learned, merged_parameters, prefix_is_frozen
from pi0_edge.training.validating import validation_of
from pi0_edge.training.watching import Watch

GEMMA = GemmaConfig(width=32, depth=2, mlp_dim=48, heads=2, kv_heads=1, head_dim=16)
VISION = VisionConfig(width=32, depth=1, mlp_dim=48, heads=2, patch_size=14, image_size=28)
FROZEN = ("vision", "projector", "token_embedding", "prefix")


def network(variant: str = "pi0", seed: int = 0) -> Pi0:
    torch.manual_seed(seed)
    model = Pi0(Pi0Config("pi05" if variant == "pi05" else "pi0", VISION, GEMMA, GEMMA, 40, action_dim=6, horizon=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.startswith(("expert", "prefix")):
                parameter.normal_(0, 0.1)
    return model


class Random:
    """Random observations of a robot, of prompts of different lengths; `keys` observations in all."""

    def __init__(self, real_dims: int = 3, keys: int = 3, fault: int | None = None, name: str = "") -> None:
        self.real_dims, self.keys, self.fault, self.name = real_dims, keys, fault, name
        self.drawn = 0

    def batch(self, size: int, rng: np.random.Generator) -> Batch:
        picks = rng.integers(self.keys, size=size)
        one = [np.random.default_rng((int(pick), len(self.name))) for pick in picks]
        images = torch.stack([torch.from_numpy(r.uniform(-1, 1, (2, 3, 28, 28))).float() for r in one])
        tokens = torch.stack([torch.from_numpy(r.integers(4, 40, 5)) for r in one])
        token_mask = torch.arange(5) < torch.from_numpy(picks % 4 + 2)[:, None]
        state = torch.from_numpy(rng.normal(size=(size, 6))).float()
        chunks = torch.from_numpy(rng.normal(size=(size, 4, 6))).float()
        if self.drawn == self.fault:
            chunks[0, 0, 0] = torch.nan
        self.drawn += 1
        inputs = ModelInputs(images, torch.ones(size, 2, dtype=torch.bool), tokens, token_mask, state)
        return Batch(inputs, chunks, self.real_dims, tuple(map(str, picks)), self.name)


def config(**changes: object) -> TrainConfig:
    settings: dict[str, object] = {
        "steps": 4,
        "real_dims": 6,
        "batch": 4,
        "warmup_steps": 1,
        "save_every": 2,
        **changes,
    }
    return TrainConfig(**settings)  # pyright: ignore[reportArgumentType]


def ignore(_: object) -> None:
    """Reports to nobody."""


def loss_of(model: Pi0, batch: Batch) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(batch.chunks.shape, generator=generator)
    return model.loss(batch.inputs, batch.chunks, noise, sample_training_times(len(noise), generator)).mean()


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_expert_leaves_images_and_words_alone_and_changes_all_the_rest(tmp_path: Path, variant: str):
    model = network(variant)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    choose_learned(model, "expert")
    assert prefix_is_frozen(model)
    after = Trainer(model, Random(), config(learning_rate=1e-2), tmp_path).run(ignore)
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    same = {name.split(".")[0] for name, value in after.items() if torch.equal(value, before[name])}
    assert same == set(FROZEN) and changed.isdisjoint(FROZEN)
    assert after.keys() == before.keys()


@pytest.mark.parametrize("plan", ["openpi", "lerobot"])
def test_lora_begins_as_the_network_is_and_its_merged_weights_are_what_was_trained(tmp_path: Path, plan: str):
    model, plain = network(), network()
    batch = Random().batch(3, np.random.default_rng(5))
    choose_learned(model, "lora", LORA_PLANS[plan])
    torch.testing.assert_close(loss_of(model, batch), loss_of(plain, batch))
    trainer = Trainer(model, Random(), config(learning_rate=1e-2), tmp_path)
    merged = trainer.run(ignore)
    with trainer.optimizer.averaged():
        wanted = loss_of(model, batch)
    plain.load_state_dict(merged)
    torch.testing.assert_close(loss_of(plain, batch), wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(wanted, loss_of(network(), batch), rtol=1e-3)


def test_ranks_and_layers_are_those_of_openpi_and_lerobot():
    factors = {}
    for plan in LORA_PLANS:
        model = network()
        choose_learned(model, "lora", LORA_PLANS[plan])
        layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}
        factors[plan] = {name: (len(layer.a), layer.scale) for name, layer in layers.items()}
        learned = {name for name, p in model.named_parameters() if p.requires_grad}
        whole = {name.split(".")[0] for name in learned if not name.endswith((".a", ".b"))}
        projections = {"state_proj", "action_in_proj", "action_out_proj", "action_time_mlp_in", "action_time_mlp_out"}
        assert whole == (projections if plan == "openpi" else set())
    # One prefix layer has all seven matrices, the last only k and v; both layers of the expert have all.
    assert sorted(set(factors["openpi"].values())) == [(16, 1.0), (32, 1.0)] and len(factors["openpi"]) == 7 + 2 + 14
    assert all(rank == (16 if name.startswith("prefix") else 32) for name, (rank, _) in factors["openpi"].items())
    assert set(factors["lerobot"].values()) == {(16, 0.5)} and len(factors["lerobot"]) == 2 * 2 + 5


def test_a_step_too_small_for_bf16_is_not_lost():
    model = apply_bf16_policy(network())
    choose_learned(model, "expert")
    optimizer = MasterOptimizer(model, weight_decay=0.0)
    name = "expert.layers.0.mlp.up.weight"
    weight, master = model.get_parameter(name), optimizer.masters[name]
    assert weight.dtype is torch.bfloat16 and master.dtype is torch.float32
    with torch.no_grad():
        weight.fill_(1.0)
        master.fill_(1.0)
    for _ in range(40):
        (weight.float().sum()).backward()
        assert weight.grad is None and master.grad is not None
        optimizer.step(1e-4, 0.9)
    # AdamW moves by the learning rate: 40 steps are 0.004, one of them is far below the 2^-8 that bf16 has near 1.
    torch.testing.assert_close(master, torch.full_like(master, 1 - 40e-4), rtol=0, atol=1e-5)
    assert (weight < 1).all()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_gradients_of_parts_add_up_to_their_mean(dtype: str):
    model = network() if dtype == "fp32" else apply_bf16_policy(network())
    choose_learned(model, "expert")
    batches = [Random().batch(2, np.random.default_rng(seed)) for seed in (1, 2)]
    alone = []
    optimizer = MasterOptimizer(model, 0.0)
    for batch in batches:
        loss_of(model, batch).backward()
        alone.append(
            {name: master.grad.clone() for name, master in optimizer.masters.items() if master.grad is not None}
        )
        optimizer.forget_gradients()
    for batch in batches:
        (loss_of(model, batch) / 2).backward()
    for name, master in optimizer.masters.items():
        if name in alone[0]:
            torch.testing.assert_close(master.grad, (alone[0][name] + alone[1][name]) / 2, rtol=2e-2, atol=1e-3)


def test_parts_that_fit_no_batch_or_robots_are_refused(tmp_path: Path):
    for changes, robots in (
        ({"batch": 5, "accumulate": 2}, 1),
        ({"accumulate": 1}, 2),
        ({"batch": 6, "accumulate": 3}, 2),
    ):
        with pytest.raises(ConfigError, match=r"a batch of \d in \d parts does not fit"):
            Trainer(network(), [Random()] * robots, config(**changes), tmp_path)


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_recomputing_changes_no_gradient(variant: str):
    batch = Random().batch(3, np.random.default_rng(0))
    found = []
    for recompute in (False, True):
        model = network(variant)
        if recompute:
            assert recompute_layers(model) == 1 + 1 + 2  # of the two prefix layers, one is keys and values alone
        loss_of(model, batch).backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=0)


def test_remembered_prefixes_are_those_of_the_batch(tmp_path: Path):
    model = network().eval()
    batch = Random(keys=6).batch(5, np.random.default_rng(2))
    one = 2 * 2 * 8 * 16 * 4  # layers, keys and values, about 8 tokens, 16 numbers, 4 bytes
    cache = PrefixCache(tmp_path, memory_bytes=3 * one, disk_bytes=10 * one)
    different = len(set(batch.keys))
    for turn in range(2):
        with torch.no_grad():
            wanted = model.attend_prefix(batch.inputs)
        found = cache.context(model, batch)
        assert torch.equal(found.lengths, wanted.lengths)
        valid = torch.ones(5, int(wanted.lengths.max()), dtype=torch.bool)
        if wanted.key_mask is not None:
            valid = wanted.key_mask
            assert found.key_mask is not None and torch.equal(found.key_mask, wanted.key_mask)
        for ours, theirs in zip(found.layers, wanted.layers, strict=True):
            torch.testing.assert_close(ours.keys[valid], theirs.keys[valid], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(ours.values[valid], theirs.values[valid], rtol=1e-4, atol=1e-5)
        assert cache.computed == different, turn
    assert list(tmp_path.rglob("*.safetensors")), "nothing went to the files"


def test_a_run_with_remembered_prefixes_is_the_run_without(tmp_path: Path):
    results = []
    for cache in (None, PrefixCache(None, 10**8)):
        model = network()
        choose_learned(model, "expert")
        folder = tmp_path / ("plain" if cache is None else "cached")
        results.append(Trainer(model, Random(), config(learning_rate=1e-3), folder, prefixes=cache).run(ignore))
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-3, atol=1e-4)


def test_prefixes_of_two_robots_are_not_confused():
    model, cache = network().eval(), PrefixCache(None, 10**8)
    one, other = (Random(name=name).batch(1, np.random.default_rng(0)) for name in ("one", "other"))
    assert one.keys == other.keys
    keys = [cache.context(model, batch).layers[0].keys for batch in (one, other)]
    assert cache.computed == 2 and not torch.equal(keys[0], keys[1])


def test_a_nan_stops_the_run_and_leaves_the_last_save(tmp_path: Path):
    model = network()
    choose_learned(model, "expert")
    with pytest.raises(TrainingError, match=r"step 3 has the loss nan.*state\.safetensors are from before it"):
        Trainer(model, Random(fault=3), config(), tmp_path).run(ignore)
    state = load_file(tmp_path / "state.safetensors")
    assert state and all(bool(tensor.isfinite().all()) for tensor in state.values())
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_a_jump_of_the_gradients_is_warned_of_once(caplog: pytest.LogCaptureFixture):
    watch = Watch()
    with caplog.at_level(logging.WARNING):
        watch.check(19, 1.0, 1e9, [1.0] * 19, None)
        watch.check(30, 1.0, 9.0, [1.0] * 30, None)
        assert not caplog.messages
        watch.check(31, 1.0, 11.0, [1.0] * 31, None)
        watch.check(32, 1.0, 11.0, [1.0] * 32, None)
    assert (
        len(caplog.messages) == 1 and "step 31" in caplog.messages[0] and "11 times the usual 1" in caplog.messages[0]
    )


@pytest.mark.parametrize("tune", ["expert", "lora"])
def test_an_interrupted_run_of_a_part_ends_where_an_unbroken_one_does(tmp_path: Path, tune: str):
    def trainer(folder: Path, seed: int = 0) -> Trainer:
        model = apply_bf16_policy(network(seed=seed))
        torch.manual_seed(1)
        choose_learned(model, tune, LORA_PLANS["openpi"] if tune == "lora" else None)
        return Trainer(model, Random(), config(tune=tune, weights="bf16"), folder)

    unbroken = trainer(tmp_path / "unbroken").run(ignore)

    def interrupt(state: object) -> None:
        if getattr(state, "step", 0) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "broken").run(interrupt)
    resumed = trainer(tmp_path / "broken").run(ignore)
    for name, value in unbroken.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0)
    assert not any(name.startswith("weight.vision") for name in load_file(tmp_path / "broken/state.safetensors"))
    with pytest.raises(ConfigError, match="other frozen weights"):
        trainer(tmp_path / "broken", seed=1).run(ignore)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_validation_looks_at_the_average_and_puts_the_weights_back(tmp_path: Path, dtype: str):
    model = network() if dtype == "fp32" else apply_bf16_policy(network())
    choose_learned(model, "expert")
    held_out = [Random().batch(4, np.random.default_rng(9))]
    seen: list[dict[str, Tensor]] = []

    def validate() -> tuple[float, float]:
        seen.append({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})
        return validation_of(model, held_out, euler_times(2))

    settings = config(validate_every=2, learning_rate=1e-2)
    trainer = Trainer(model, Random(), settings, tmp_path / "watched", validate=validate)
    average = trainer.run(ignore)
    assert [one.step for one in trainer.state.validations] == [2, 4]
    for name, value in seen[-1].items():
        torch.testing.assert_close(value, average[name], rtol=0, atol=0)
    unwatched = network() if dtype == "fp32" else apply_bf16_policy(network())
    choose_learned(unwatched, "expert")
    Trainer(unwatched, Random(), settings, tmp_path / "unwatched").run(ignore)
    for (name, one), other in zip(model.named_parameters(), unwatched.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_padding_of_the_smaller_robot_is_left_out_of_the_loss(tmp_path: Path):
    class Poisoned(Random):
        def batch(self, size: int, rng: np.random.Generator) -> Batch:
            batch = super().batch(size, rng)
            batch.chunks[..., self.real_dims :] = 1e6
            return batch

    plain, poisoned = (
        Trainer(network(), [Random(6, name="a"), kind(2, name="bb")], config(accumulate=2), tmp_path / kind.__name__)
        for kind in (Random, Poisoned)
    )
    # The noisy padding enters the network, so only the loss of the very first step can tell: with weights that ignore
    # their input of padding there is no difference at all.
    for trainer in (plain, poisoned):
        with torch.no_grad():
            trainer.model.get_parameter("action_in_proj.weight")[:, 2:] = 0
    assert plain._step(0)[0] == pytest.approx(poisoned._step(0)[0])


def test_merged_parameters_keep_names_and_dtypes():
    model = apply_bf16_policy(network())
    wanted = {name: (p.shape, p.dtype) for name, p in model.named_parameters()}
    choose_learned(model, "lora", LORA_PLANS["lerobot"])
    assert {name: (t.shape, t.dtype) for name, t in merged_parameters(model, {})} == wanted


@pytest.mark.parametrize("tune", ["full", "expert", "lora"])
def test_every_way_to_tune_lowers_the_loss(tmp_path: Path, tune: str):
    class Still(Random):
        """The arm never moves: what there is to learn is that the velocity is the noise."""

        def batch(self, size: int, rng: np.random.Generator) -> Batch:
            batch = super().batch(size, rng)
            batch.chunks.zero_()
            return batch

    model = apply_bf16_policy(network())
    choose_learned(model, tune, LORA_PLANS["openpi"])
    settings = config(steps=60, batch=8, learning_rate=5e-3, save_every=60, tune=tune, weights="bf16")
    trainer = Trainer(model, Still(), settings, tmp_path)
    trainer.run(ignore)
    assert np.mean(trainer.state.losses[-10:]) < 0.7 * np.mean(trainer.state.losses[:10])


def test_unknown_ways_to_tune_are_refused():
    with pytest.raises(ConfigError, match=r"tune is 'half', expected one of full, expert, lora"):
        choose_learned(network(), "half")
    with pytest.raises(ConfigError, match="needs a plan"):
        choose_learned(network(), "lora")
