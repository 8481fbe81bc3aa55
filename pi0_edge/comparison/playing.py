"""What a trained cell does with one way of decoding: success, motion, precision, and how it shares out two ways."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from pi0_edge.comparison.plan import Decoding, Plan, TaskBudget, Variant
from pi0_edge.comparison.precision import precision_of, seen_by_expert
from pi0_edge.evaluation.multimodality import figures_of
from pi0_edge.evaluation.rollout import prompt_of
from pi0_edge.evaluation.side_by_side import answers_of, draw_paths_together, play_together
from pi0_edge.policy import Policy
from pi0_edge.sim.tasks import simulated_task
from pi0_edge.synced_files import save_synced


def policy_of(checkpoint: Path, decoding: Decoding) -> Policy:
    """A cell's policy in fp32, decoding in one way."""
    sizes: dict[str, object] = {"euler_steps": decoding.steps, "decoding": "sampled" if decoding.sampled else "greedy"}
    return Policy.load(checkpoint, engine="reference", sizes=sizes)


def play_cell(
    plan: Plan, task: TaskBudget, variant: Variant, seed: int, decoding: Decoding, checkpoint: Path, result: Path
) -> dict[str, Any]:
    """Plays and measures, and writes the figures whole.

    Args:
        plan: Of the comparison.
        task: What is played.
        variant: Head and chunk.
        seed: Of the cell.
        decoding: How chunks are made.
        checkpoint: Of the cell.
        result: File that is written.
    """
    simulated, policy = simulated_task(task.name), policy_of(checkpoint, decoding)
    size = policy.engine.config.vision.image_size
    episodes = play_together(policy, simulated, range(task.scenes), variant.executed)
    answer, arm = answers_of(policy), simulated.environment.arm_joints()
    precision = precision_of(answer, seen_by_expert(simulated, range(task.precise), size), variant.executed, arm)
    found: dict[str, Any] = {
        "task": task.name,
        "variant": variant.name,
        "seed": seed,
        "decoding": decoding.name,
        "episodes": [
            {
                "seed": episode.rollout.seed,
                "success": episode.rollout.success,
                "ticks": episode.rollout.ticks,
                "failed": episode.failed,
                "jerk": episode.jerk,
                "path_error": episode.path_error,
                "chunks": episode.chunks,
            }
            for episode in episodes
        ],
        "precision": dataclasses.asdict(precision),
    }
    if task.drawn:
        prompt = prompt_of(policy, simulated)
        drawn = draw_paths_together(answer, range(task.drawn), plan.draws, variant.executed, size, prompt)
        found["ways"] = figures_of(drawn).to_dict()
    result.parent.mkdir(parents=True, exist_ok=True)
    save_synced(result, json.dumps(found, indent=2).encode())
    return found
