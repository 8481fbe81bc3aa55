"""Heads from training to policy: checkpoints, bundles, engines, serving, and what is refused in words."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from head_cases import SMALL
from policy_builders import CONFIG, DIMS, PROMPT, observation

from firmware_bridge.splice import client_splice
from pi0_edge.bundle import write_bundle
from pi0_edge.checkpoints import open_checkpoint, save_checkpoint
from pi0_edge.engine import find_engine
from pi0_edge.engine.loading import blank_model, fill_model
from pi0_edge.errors import BundleError, CheckpointError, ConfigError, EngineError
from pi0_edge.estimation.work import Chunk
from pi0_edge.heads import HEADS, build_network
from pi0_edge.policy import Policy
from pi0_edge.processing import Mode, Normalization, Normalizer, ObservationProcessor, RunningPlan, load_robot
from pi0_edge.processing.settings import ProcessingSettings
from pi0_edge.processing.tokenizer import load_tokenizer
from pi0_edge.quant.schemes import FP32, INT8_W8A8, ORIN
from pi0_edge.serving.messages import describe_policy
from pi0_edge.training.run import write_prompt_tokenizer
from pi0_edge.training.samples import Augmentation, Demonstration, SampleBatches, moments
from pi0_edge.training.trainer import TrainConfig, Trainer

pytestmark = pytest.mark.system

OTHERS = [head for head in HEADS if head != "flow"]


def write_policy(folder: Path, head, **sizes) -> Path:
    """A checkpoint folder of a small network with this head, as `pi0-edge train` writes it."""
    horizon = {"rt2": 2, "octo": 4, "tinyvla": 8, "mse": 10, "flow": 10}[head]
    config = dataclasses.replace(CONFIG, **{"head": head, "real_dims": DIMS, "horizon": horizon, **sizes})
    torch.manual_seed(1)
    folder.mkdir(parents=True, exist_ok=True)
    write_prompt_tokenizer([PROMPT], config.vocab_size, folder / "tokenizer.json")
    stats = {"mean": np.linspace(-0.5, 0.5, DIMS), "std": np.linspace(0.1, 0.5, DIMS)}
    z_score = Normalizer(Mode.OPENPI_ZSCORE, stats)
    settings = dataclasses.replace(ProcessingSettings.of_openpi("pi0"), euler_steps=HEADS[head].steps)
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    normalization = Normalization(z_score, z_score)
    processor = ObservationProcessor(load_robot("aloha_sim"), tokenizer, normalization, config, settings)
    save_checkpoint(folder, build_network(config).state_dict(), config, processor.description())
    return folder


@pytest.mark.parametrize("head", HEADS)
def test_a_checkpoint_says_its_head_and_plays_its_horizon(tmp_path, head):
    folder = write_policy(tmp_path, head)
    config = open_checkpoint(folder).infer_config()
    assert (config.head, config.real_dims) == (head, DIMS)
    policy = Policy.load(folder, engine="reference")
    assert len(policy.engine.times) == HEADS[head].steps
    chunk, again = policy.infer(observation(), noise_seed=5), policy.infer(observation(), noise_seed=5)
    assert chunk.actions.shape == (config.horizon, DIMS) and np.isfinite(chunk.actions).all()
    assert np.array_equal(chunk.actions, again.actions)
    metadata = describe_policy(policy)
    assert metadata.horizon == config.horizon
    assert metadata.model == ("pi0" if head == "flow" else f"pi0-{head}")
    assert metadata.refuses_continuation is (head != "flow")


@pytest.mark.parametrize("head", OTHERS)
def test_a_bundle_under_int8_gives_the_chunks_of_its_checkpoint(tmp_path, head):
    folder = write_policy(tmp_path / "checkpoint", head)
    opened, quantized = open_checkpoint(folder), Policy.load(folder, scheme="int8-w8a8")
    config = opened.infer_config()
    model = blank_model(config, INT8_W8A8)
    fill_model(model, opened.tensors(dict(model.named_parameters())), INT8_W8A8)
    write_bundle(
        tmp_path / "bundle",
        state=model.state_dict(),
        config=config,
        scheme=INT8_W8A8,
        processing=quantized.processor.description(),
        source_sha256="0" * 64,
    )
    restored = Policy.from_bundle(tmp_path / "bundle", accept_failed_gate=True)
    assert restored.engine.config == config
    ours, theirs = (policy.infer(observation(), noise_seed=3).actions for policy in (restored, quantized))
    assert np.array_equal(ours, theirs)
    exact = Policy.load(folder, engine="reference").infer(observation(), noise_seed=3).actions
    if head != "rt2":  # where a greedy token may change its bin
        assert np.abs(ours - exact).max() < 0.2


def test_a_sizes_file_changes_how_tokens_are_chosen(tmp_path):
    folder = write_policy(tmp_path, "rt2")
    policy = Policy.load(folder, engine="reference", sizes={"decoding": "sampled"})
    one, other = (policy.infer(observation(), noise_seed=seed).actions for seed in (1, 2))
    assert not np.array_equal(one, other)
    with pytest.raises(ConfigError, match="expected one of greedy, sampled"):
        Policy.load(folder, engine="reference", sizes={"decoding": "beam"})


def test_weights_of_a_head_whose_config_is_lost_do_not_pass_for_flow(tmp_path):
    folder = write_policy(tmp_path, "octo")
    content = json.loads((folder / "config.json").read_text())
    del content["config"]["head"]
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="missing action_in_proj"):
        Policy.load(folder, engine="reference")


@pytest.mark.parametrize("head", OTHERS)
def test_real_time_chunking_is_refused_by_policy_and_by_the_robots_side(tmp_path, head):
    policy = Policy.load(write_policy(tmp_path, head), engine="reference")
    plan = RunningPlan(np.zeros((2, DIMS)), delay=1)
    with pytest.raises(ConfigError, match="splice hold-swap"):
        policy.infer(observation(), plan=plan)
    assert client_splice("hold-swap", 0, refuses_continuation=True).name == "hold-swap"
    with pytest.raises(ConfigError, match="expected one that this policy allows: hold-swap"):
        client_splice("rtc", 0, refuses_continuation=True)


@pytest.mark.parametrize("name", ["cuda", "tensorrt", "openvino"])
def test_engines_of_flow_matching_refuse_other_heads_before_weights_are_read(name):
    config = dataclasses.replace(SMALL, head="octo")
    with pytest.raises(EngineError, match=f'engine="{name}" has only π0\'s flow matching, and .* the head octo'):
        find_engine(name).check_network(config, ORIN)


def test_an_estimate_of_another_head_is_refused():
    with pytest.raises(ConfigError, match="not for the head mse"):
        Chunk(dataclasses.replace(SMALL, head="mse"), FP32, cameras=1, tokens=3, steps=1)


def test_a_bundle_with_an_unknown_head_is_refused(tmp_path):
    from pi0_edge.bundle.manifest import _parse_config
    from pi0_edge.model import Pi0Config

    plain = {**dataclasses.asdict(SMALL), "head": "rt3"}
    with pytest.raises(BundleError, match=r"model\.head is 'rt3', expected flow or rt2"):
        _parse_config(Pi0Config, plain, "model")


# Training.


def trainer(folder: Path, head, steps: int) -> Trainer:
    rng = np.random.default_rng(0)
    episodes = [
        Demonstration(
            rng.integers(0, 256, (8, 14, 14, 3), np.uint8),
            np.zeros((16, 2), np.float32),
            np.cumsum(rng.normal(0, 0.2, (16, 2)), 0).astype(np.float32),
        )
        for _ in range(3)
    ]
    stats = {"state": moments([e.states for e in episodes]), "actions": moments([e.actions for e in episodes])}
    batches = SampleBatches(episodes, 2, stats, [2, 5, 3], SMALL.horizon, SMALL.action_dim, Augmentation(0.0, 4, 0.0))
    torch.manual_seed(0)
    model = build_network(dataclasses.replace(SMALL, head=head, real_dims=2))
    if head != "flow":
        model.fit_actions(batches.actions)  # pyright: ignore[reportCallIssue]
    return Trainer(model, batches, TrainConfig(steps, 2, batch=4, warmup_steps=2, save_every=2), folder)


@pytest.mark.parametrize("head", OTHERS)
def test_an_interrupted_run_of_any_head_ends_where_an_unbroken_one_does(tmp_path, head):
    unbroken = trainer(tmp_path / "unbroken", head, 4).run(lambda _: None)

    class Stop(Exception):
        pass

    def interrupt(progress):
        if progress.step == 3:
            raise Stop

    with pytest.raises(Stop):
        trainer(tmp_path / "broken", head, 4).run(interrupt)
    resumed = trainer(tmp_path / "broken", head, 4).run(lambda _: None)
    for name, value in unbroken.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("head", OTHERS)
@pytest.mark.parametrize("scheme", ["bf16", "int8-w8a16", "orin"])
def test_heads_run_under_the_schemes_of_the_cpu_engine(tmp_path, head, scheme):
    folder = write_policy(tmp_path, head)
    chunk = Policy.load(folder, scheme=scheme).infer(observation(), noise_seed=3).actions
    exact = Policy.load(folder, engine="reference").infer(observation(), noise_seed=3).actions
    assert np.isfinite(chunk).all()
    if head != "rt2":
        assert np.abs(chunk - exact).max() < 0.2
