"""One cell of the table: an expert and a head with random weights, trained on the frozen features of a task.

Also the learning rate of a head, which is chosen before by the loss on episodes that no training sees.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch

from pi0_edge.checkpoints import save_checkpoint
from pi0_edge.comparison.backbone import Frozen, FrozenSamples, head_loss, take
from pi0_edge.comparison.plan import Plan, TaskBudget, Variant
from pi0_edge.comparison.training import Trained, generator_of, train_for
from pi0_edge.errors import TrainingError
from pi0_edge.heads import build_network, fit_actions, parameter_counts
from pi0_edge.heads.counting import BACKBONE
from pi0_edge.model import PolicyNetwork
from pi0_edge.synced_files import save_synced

HELD_OUT_BATCHES = 8
"""Batches of the held-out loss, with the same noise for every network."""
TUNING_SEED = 1000
"""Of initial weights and batches while rates are tried: another than those of the cells."""


def try_rate(frozen: Frozen, plan: Plan, task: TaskBudget, variant: Variant, rate: float) -> dict[str, Any]:
    """Trains a head for a short time with one learning rate and gives its held-out loss; not finite if it diverged."""
    network, trained = _train(frozen, plan, task, variant, TUNING_SEED, task.tuning_s, rate)
    return {
        "rate": rate,
        "steps": trained.steps,
        "loss": trained.loss,
        "held_out": _held_out(frozen, plan, task, network),
    }


def train_cell(
    frozen: Frozen,
    plan: Plan,
    task: TaskBudget,
    variant: Variant,
    seed: int,
    rate: float,
    folder: Path,
) -> dict[str, Any]:
    """Trains one cell and writes its policy as an ordinary checkpoint, then `cell.json` beside it.

    Returns:
        What `cell.json` holds: steps, processor seconds, losses and parameters.

    Raises:
        TrainingError: If the training diverged; nothing is written then.
    """
    network, trained = _train(frozen, plan, task, variant, seed, task.cell_s, rate)
    held_out = _held_out(frozen, plan, task, network)
    if not (math.isfinite(trained.loss) and math.isfinite(held_out)):
        raise TrainingError(
            f"{task.name}: {variant.name}, seed {seed}, diverged at a learning rate of {rate:g} (loss "
            f"{trained.loss:g}, held out {held_out:g}, after {trained.steps} steps); the same command trains it again"
        )
    description = frozen.processor.description()
    settings = {**description.settings, "euler_steps": variant.decodings[0].steps}
    described = dataclasses.replace(description, settings=settings)
    save_checkpoint(folder / "checkpoint", network.state_dict(), network.config, described)
    result = {
        "task": task.name,
        "variant": variant.name,
        "seed": seed,
        "rate": rate,
        "steps": trained.steps,
        "cpu_seconds": trained.seconds,
        "loss": trained.loss,
        "held_out": held_out,
        "parameters": _counts_of_unfrozen(network),
    }
    save_synced(folder / "cell.json", json.dumps(result, indent=2).encode())
    return result


def _train(
    frozen: Frozen,
    plan: Plan,
    task: TaskBudget,
    variant: Variant,
    seed: int,
    seconds: float,
    rate: float,
) -> tuple[PolicyNetwork, Trained]:
    samples = frozen.samples(variant.horizon, slice(0, len(frozen.demonstrations) - task.held_out))
    dims = frozen.processor.robot.action_dim
    torch.manual_seed(seed)
    network = build_network(variant.config(plan.network, dims))
    network.load_state_dict(frozen.weights, strict=False)
    for part in BACKBONE:
        network.get_submodule(part).requires_grad_(False)
    fit_actions(network, samples.batches.actions)

    def loss_of_step(step: int) -> torch.Tensor:
        rng, generator = generator_of(seed, step)
        inputs, chunks, prefix = samples.draw(plan.batch, rng)
        return head_loss(network, inputs, chunks, prefix, dims, generator)

    trained = train_for(network, loss_of_step, seconds, rate)
    take(network, trained)
    return network, trained


@torch.inference_mode()
def _held_out(frozen: Frozen, plan: Plan, task: TaskBudget, network: PolicyNetwork) -> float:
    """The loss of a network on episodes that no training sees, the same observations and noise each time."""
    first = len(frozen.demonstrations) - task.held_out
    samples = frozen.samples(network.config.horizon, slice(first, len(frozen.demonstrations)))
    return (
        sum(_one_loss(frozen, samples, plan.batch, network, number) for number in range(HELD_OUT_BATCHES))
        / HELD_OUT_BATCHES
    )


def _one_loss(frozen: Frozen, samples: FrozenSamples, batch: int, network: PolicyNetwork, number: int) -> float:
    rng, generator = generator_of(number, 3)
    inputs, chunks, prefix = samples.draw(batch, rng)
    return float(head_loss(network, inputs, chunks, prefix, frozen.processor.robot.action_dim, generator))


def _counts_of_unfrozen(network: PolicyNetwork) -> dict[str, int]:
    """`parameter_counts`, the backbone included."""
    for part in BACKBONE:
        network.get_submodule(part).requires_grad_(True)
    return parameter_counts(network)
