"""Training: samples, schedule, average, resuming, and a policy that learns to look."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from pi0_edge.errors import ConfigError
from pi0_edge.model import GemmaConfig, Pi0, Pi0Config, VisionConfig
from pi0_edge.model.rtc import frozen_actions
from pi0_edge.training.run import write_prompt_tokenizer
from pi0_edge.training.samples import STD_FLOOR, Augmentation, Demonstration, SampleBatches, moments
from pi0_edge.training.trainer import TrainConfig, Trainer, learning_rate
from pi0_edge.training.vision_warmup import warm_up_vision

STRIDE = 2
CONFIG = Pi0Config(
    "pi0",
    VisionConfig(width=32, depth=1, mlp_dim=64, heads=2, patch_size=8, image_size=32),
    GemmaConfig(width=32, depth=2, mlp_dim=32, heads=2, kv_heads=1, head_dim=16),
    GemmaConfig(width=32, depth=2, mlp_dim=32, heads=2, kv_heads=1, head_dim=16),
    vocab_size=16,
    action_dim=8,
    horizon=6,
)
PLAIN = Augmentation(opening_share=0.0, opening_ticks=4, state_noise=0.0)


def demonstrations(count: int = 24, ticks: int = 20) -> list[Demonstration]:
    """A dot whose place in the picture, and nothing else, tells where the arm will go."""
    rng = np.random.default_rng(3)
    episodes = []
    for _ in range(count):
        x, y = rng.integers(4, 28, size=2)
        frame = np.full((32, 32, 3), 60, np.uint8)
        frame[y - 3 : y + 3, x - 3 : x + 3] = (255, 0, 0)
        goal = np.array([x / 16 - 1, y / 16 - 1, 0.3], np.float32)
        actions = np.linspace(0, 1, ticks, dtype=np.float32)[:, None] * goal
        frames = np.repeat(frame[None], ticks // STRIDE, axis=0)
        episodes.append(Demonstration(frames, np.zeros((ticks, 3), np.float32), actions))
    return episodes


def batches(augmentation: Augmentation = PLAIN, episodes: list[Demonstration] | None = None) -> SampleBatches:
    episodes = episodes or demonstrations()
    stats = {"state": moments([e.states for e in episodes]), "actions": moments([e.actions for e in episodes])}
    return SampleBatches(episodes, STRIDE, stats, [2, 5, 3], CONFIG.horizon, CONFIG.action_dim, augmentation)


def test_a_chunk_holds_the_last_action_beyond_the_end_of_its_episode():
    episode = demonstrations(1)[0]
    source = batches(episodes=[episode])
    _, chunks = source.draw(64, np.random.default_rng(0))
    last = (episode.actions[-1] - np.mean(episode.actions, 0)) / (np.maximum(episode.actions.std(0), STD_FLOOR) + 1e-6)
    # The last picture is of tick 18 of 20: its chunk is action 18 and then action 19 five times.
    held = [chunk for chunk in chunks[:, :, :3].numpy() if np.allclose(chunk[1:], last, atol=1e-5)]
    assert held and not np.allclose(held[0][0], last, atol=1e-3)
    assert torch.all(chunks[:, :, 3:] == 0)


def test_batches_are_reproducible_and_pictures_are_in_the_range_of_the_model():
    first, second = (batches().draw(8, np.random.default_rng((1, 2))) for _ in range(2))
    assert torch.equal(first[0].images, second[0].images) and torch.equal(first[1], second[1])
    assert first[0].images.shape == (8, 1, 3, 32, 32)
    assert first[0].images.min() >= -1 and first[0].images.max() == 1
    assert first[0].tokens.tolist() == [[2, 5, 3]] * 8


def test_opening_share_of_a_batch_comes_from_the_first_ticks():
    episode = demonstrations(1, ticks=200)[0]
    episode = replace(episode, states=np.arange(200, dtype=np.float32)[:, None] * np.ones(3, np.float32))
    source = batches(Augmentation(opening_share=0.5, opening_ticks=10, state_noise=0.0), [episode])
    inputs, _ = source.draw(100, np.random.default_rng(0))
    ticks = inputs.state[:, 0] * (np.std(episode.states[:, 0]) + 1e-6) + np.mean(episode.states[:, 0])
    assert (ticks[:50] < 10).all() and (ticks[50:] > 20).float().mean() > 0.7


def test_a_joint_that_never_moves_keeps_the_floor_of_the_deviation():
    assert moments([np.zeros((10, 2), np.float32)])["std"].tolist() == [STD_FLOOR, STD_FLOOR]


def test_learning_rate_warms_up_and_ends_at_a_hundredth():
    config = TrainConfig(steps=100, real_dims=3, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (k + 1) for k in range(10)])
    assert max(rates) == 1.0 and rates[100] == pytest.approx(0.01)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def trainer(folder: Path, steps: int = 6, max_delay: int = 0, free_share: float = 0.0) -> Trainer:
    torch.manual_seed(0)
    delays = {"max_delay": max_delay, "free_share": free_share}
    config = TrainConfig(steps=steps, real_dims=3, batch=8, warmup_steps=2, save_every=3, **delays)
    return Trainer(Pi0(CONFIG), batches(), config, folder)


def test_an_interrupted_run_ends_where_an_unbroken_one_does(tmp_path):
    unbroken = trainer(tmp_path / "unbroken").run(lambda _: None)

    class Stop(Exception):
        pass

    def interrupt(progress):
        if progress.step == 5:  # after the save at 3, before the next
            raise Stop

    with pytest.raises(Stop):
        trainer(tmp_path / "broken").run(interrupt)
    steps = []
    resumed = trainer(tmp_path / "broken").run(lambda progress: steps.append(progress.step))
    assert steps == [4, 5, 6]
    for name, value in unbroken.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=1e-6)


def test_going_on_with_other_settings_is_refused(tmp_path):
    trainer(tmp_path).run(lambda _: None)
    with pytest.raises(ConfigError, match="other settings"):
        trainer(tmp_path, steps=7).run(lambda _: None)


def test_vision_warm_up_learns_where_the_dot_is_and_leaves_the_rest_alone():
    torch.manual_seed(0)
    model = Pi0(CONFIG)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = list(warm_up_vision(model, batches(), steps=400, batch=32, seed=0))
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    changed = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"vision", "projector"}


def test_training_lowers_the_loss(tmp_path):
    run = trainer(tmp_path, steps=300)
    run.run(lambda _: None)
    assert np.mean(run.state.losses[-50:]) < 0.7 * np.mean(run.state.losses[:20])


def test_a_random_prefix_of_each_chunk_is_frozen_and_left_out_of_the_loss(tmp_path, monkeypatch):
    run = trainer(tmp_path, steps=20, max_delay=4)
    drawn = []
    real = Pi0.loss

    def poisoned(self, inputs, actions, noise, times, frozen, prefix):
        drawn.extend(frozen.tolist())
        loss = real(self, inputs, actions, noise, times, frozen, prefix)
        return torch.where(frozen_actions(frozen, CONFIG.horizon)[..., None], torch.nan, loss)

    monkeypatch.setattr(Pi0, "loss", poisoned)
    run.run(lambda _: None)
    assert np.isfinite(run.state.losses).all()
    assert set(drawn) == {0, 1, 2, 3, 4}


def test_a_share_of_the_chunks_has_nothing_frozen_where_that_is_asked_for(tmp_path, monkeypatch):
    run = trainer(tmp_path, steps=40, max_delay=4, free_share=0.5)
    drawn = []
    real = Pi0.loss

    def recorded(self, inputs, actions, noise, times, frozen, prefix):
        drawn.extend(frozen.tolist())
        return real(self, inputs, actions, noise, times, frozen, prefix)

    monkeypatch.setattr(Pi0, "loss", recorded)
    run.run(lambda _: None)
    assert set(drawn) == {0, 1, 2, 3, 4}
    assert drawn.count(0) / len(drawn) == pytest.approx(0.5 + 0.5 / 5, abs=4 * (0.24 / len(drawn)) ** 0.5)


def test_prompt_tokenizer_has_gemmas_special_tokens_and_spells_anything(tmp_path):
    from pi0_edge.processing import load_tokenizer

    write_prompt_tokenizer(["Transfer cube"], 512, tmp_path / "tokenizer.json")
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.bos_id == 2
    assert len(tokenizer.encode("Transfer cube\n")) <= 5
    assert 3 not in tokenizer.encode("Gieß den Kakao ein ☕")  # 3 is <unk>
