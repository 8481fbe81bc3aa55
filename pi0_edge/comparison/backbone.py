"""The backbone that all heads share: trained by all of them in turn, then frozen.

Vision tower and prefix start from the shipped policy, as π0 starts from a vision-language model. Then, where the scene
is new, the vision tower learns alone, see `pi0_edge.training.vision_warmup`. Then five experts with their heads, of
which each step trains another, learn on the frozen features for a while, and after that all together with vision tower,
prefix and token table, so that the features are made for none of the heads alone. Experts and heads are thrown away:
every cell starts with new ones. Keys and values of every observation are computed once and kept in half precision, so
that a step of a cell costs its expert and its head alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pi0_edge.checkpoints import open_checkpoint, save_checkpoint
from pi0_edge.comparison.plan import EXPERTS_ALONE, Plan, TaskBudget, Variant
from pi0_edge.comparison.training import Trained, generator_of, train_for
from pi0_edge.datasets.lerobot_reader import LeRobotDataset
from pi0_edge.engine import parameter_shapes
from pi0_edge.errors import ConfigError
from pi0_edge.heads import build_network, fit_actions, training_times
from pi0_edge.heads.counting import BACKBONE
from pi0_edge.model import PRESETS, ModelInputs, Pi0Config, PolicyNetwork
from pi0_edge.model.gemma import KeyValues
from pi0_edge.model.pi0 import Context
from pi0_edge.processing import ObservationProcessor, load_processor, load_robot
from pi0_edge.shipped import shipped_checkpoint
from pi0_edge.sim.tasks import simulated_task
from pi0_edge.synced_files import replace_synced
from pi0_edge.training.run import STRIDE, WARM_UP_HORIZON, new_processor, sample_batches, write_prompt_tokenizer
from pi0_edge.training.samples import Demonstration, SampleBatches, load_demonstrations
from pi0_edge.training.vision_warmup import VisionReadout

ROBOT = "aloha_sim"
RATE = 1e-3
AT_ONCE = 64
"""Observations of which keys and values are computed in one pass."""


@dataclasses.dataclass(frozen=True)
class Frozen:
    """One task as the cells see it.

    Attributes:
        processor: Its statistics, prompt and tokenizer, for a network of the flow head.
        demonstrations: Without images.
        prefixes: float16 [observations, layers, 2, tokens, kv_heads, head_dim], keys and values.
        weights: Of vision tower, projector, token table and prefix.
    """

    processor: ObservationProcessor
    demonstrations: list[Demonstration]
    prefixes: NDArray[np.float16]
    weights: dict[str, Tensor]

    def samples(self, horizon: int, episodes: slice) -> FrozenSamples:
        """Observations of some episodes with chunks of `horizon` actions.

        Raises:
            ConfigError: If the prompt is missing.
        """
        chosen = self.demonstrations[episodes]
        counts = [len(one.images) for one in self.demonstrations]
        first = sum(counts[: range(len(counts))[episodes].start])
        prompt = self.processor.robot.default_prompt
        if prompt is None:
            raise ConfigError(
                "the backbone was written without its prompt; delete its folder and run the command again"
            )
        batches = sample_batches(self.processor, chosen, prompt, horizon)
        return FrozenSamples(batches, self.prefixes[first : first + len(batches)])


class FrozenSamples:
    """Batches of observations of which keys and values of the prefix are known."""

    def __init__(self, batches: SampleBatches, prefixes: NDArray[np.float16]) -> None:
        """Observations without images, and their prefixes in the same order."""
        self.batches = batches
        self._prefixes = prefixes
        counts = [len(one.images) for one in batches.demonstrations]
        self._first = np.concatenate([[0], np.cumsum(counts)])

    def draw(self, size: int, rng: np.random.Generator) -> tuple[ModelInputs, Tensor, Context]:
        """Inputs without images, normalized chunks [size, horizon, action_dim], and the prefixes."""
        picks = self.batches.picks(size, rng)
        inputs, chunks = self.batches.observed(picks, rng)
        kept = torch.from_numpy(self._prefixes[self._first[picks[:, 0]] + picks[:, 1]]).float()
        lengths = torch.full((size,), kept.shape[3])
        layers = [KeyValues(kept[:, layer, 0], kept[:, layer, 1]) for layer in range(kept.shape[1])]
        return inputs, chunks, Context(layers, lengths, None)


def train_backbone(plan: Plan, task: TaskBudget, demonstrations: Path, folder: Path) -> None:
    """Trains the backbone of a task and writes it with keys and values of all observations.

    Args:
        plan: The sizes and the heads.
        task: Its budget.
        demonstrations: LeRobotDataset folder.
        folder: Gets an ordinary checkpoint (with a flow head that means nothing) and `prefixes.npy`.
    """
    prompt = simulated_task(task.name).prompt
    shown = load_demonstrations(demonstrations, "top", STRIDE)[: task.episodes]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = folder / "made-tokenizer.json"
    write_prompt_tokenizer([prompt], plan.network.vocab_size, tokenizer)
    robot = load_robot(ROBOT)
    processor = new_processor(tokenizer, shown, robot, prompt, plan.network)
    learned = shown[: len(shown) - task.held_out]
    torch.manual_seed(0)
    networks = shared_networks(plan.network, _one_of_each_head(plan.variants), robot.action_dim)
    looking_ahead = sample_batches(processor, learned, prompt, WARM_UP_HORIZON)
    if plan.from_shipped:
        _start_from_shipped(networks[0])
    if task.vision_s:
        readout = VisionReadout(networks[0], seed=0)
        train_for(
            readout,
            lambda step: readout.loss(*looking_ahead.draw(plan.batch, generator_of(step, 1)[0])),
            task.vision_s,
            RATE,
        )
    batches = [sample_batches(processor, learned, prompt, network.config.horizon) for network in networks]
    for network, of_one in zip(networks, batches, strict=True):
        fit_actions(network, of_one.actions)

    def loss_of_step(step: int) -> Tensor:
        which = step % len(networks)
        rng, generator = generator_of(step, 2)
        inputs, chunks = batches[which].draw(plan.batch, rng)
        return head_loss(networks[which], inputs, chunks, None, robot.action_dim, generator)

    together = nn.ModuleList(networks)
    for learns, share, rate in ((False, EXPERTS_ALONE, RATE), (True, 1 - EXPERTS_ALONE, task.backbone_rate)):
        for part in BACKBONE:
            networks[0].get_submodule(part).requires_grad_(learns)
        take(together, train_for(together, loss_of_step, share * task.backbone_s, rate))
    _write_prefixes(networks[0], sample_batches(processor, shown, prompt, 1), folder / "prefixes.npy")
    flow = build_network(plan.network)
    backbone = {name: value for name, value in networks[0].state_dict().items() if name.split(".")[0] in BACKBONE}
    save_checkpoint(folder, {**flow.state_dict(), **backbone}, plan.network, processor.description())


def shared_networks(base: Pi0Config, variants: Sequence[Variant], dims: int) -> list[PolicyNetwork]:
    """Networks with different heads and one and the same backbone."""
    networks = [build_network(variant.config(base, dims)) for variant in variants]
    for network in networks[1:]:
        for part in BACKBONE:
            setattr(network, part, getattr(networks[0], part))
    return networks


def head_loss(
    network: PolicyNetwork,
    inputs: ModelInputs,
    chunks: Tensor,
    prefix: Context | None,
    dims: int,
    generator: torch.Generator,
) -> Tensor:
    """The loss of a head over the real dimensions, a scalar; one draw of noise for each observation."""
    noise = torch.randn(chunks.shape, generator=generator)
    times = training_times(network, len(chunks), generator)
    return network.loss(inputs, chunks, noise, times, None, prefix)[..., :dims].mean()


def take(model: nn.Module, trained: Trained) -> None:
    """Puts the averaged parameters of a training into the network."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in trained.weights:
                parameter.copy_(trained.weights[name])


def _start_from_shipped(network: PolicyNetwork) -> None:
    names = [name for name in parameter_shapes(PRESETS["pi0-cube"]) if name.split(".")[0] in BACKBONE]
    known = {name: value.clone() for name, value in open_checkpoint(shipped_checkpoint()).tensors(names)}
    network.load_state_dict(known, strict=False)


def load_frozen(folder: Path, demonstrations: Path, base: Pi0Config) -> Frozen:
    """Reads what `train_backbone` wrote; the prefixes stay in the file."""
    opened = open_checkpoint(folder)
    processor = load_processor(opened.folder, base)
    names = [name for name in parameter_shapes(base) if name.split(".")[0] in BACKBONE]
    weights = {name: value.clone() for name, value in opened.tensors(names)}
    prefixes = np.load(folder / "prefixes.npy", mmap_mode="r")
    return Frozen(processor, _without_images(demonstrations), prefixes, weights)


def _one_of_each_head(variants: Sequence[Variant]) -> list[Variant]:
    """The first variant of each head."""
    found: dict[str, Variant] = {}
    for variant in variants:
        found.setdefault(variant.head, variant)
    return list(found.values())


@torch.inference_mode()
def _write_prefixes(network: PolicyNetwork, batches: SampleBatches, path: Path) -> None:
    rng = np.random.default_rng(0)

    def rows(first: int) -> NDArray[np.float16]:
        inputs, _ = batches.observed(batches.index[first : first + AT_ONCE], rng)
        layers = network.attend_prefix(inputs).layers
        return torch.stack([torch.stack((layer.keys, layer.values), 1) for layer in layers], 1).half().numpy()

    partial, begin = path.with_suffix(".tmp"), rows(0)
    shape = (len(batches), *begin.shape[1:])
    kept = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)
    kept[: len(begin)] = begin
    for first in range(AT_ONCE, len(batches), AT_ONCE):
        kept[first : first + AT_ONCE] = rows(first)
    kept.flush()
    replace_synced(partial, path)


def _without_images(root: Path) -> list[Demonstration]:
    """States and actions, with as many images of no pixels as there are images."""
    dataset = LeRobotDataset(root)
    episodes = [dataset.episode(info.index) for info in dataset.episodes]
    return [
        Demonstration(np.empty((-(-len(one.state) // STRIDE), 0, 0, 3), np.uint8), one.state, one.action)
        for one in episodes
    ]
