"""The task with two ways: how its expert does, what a policy makes of both ways, and a picture of it.

    python -m benchmarks.two_ways [--scenes 200] [--checkpoint RUN/checkpoint --drawn 10] [--picture two_ways.png]

Of the expert: success with its way as the seed says, shares of the ways, ticks to success, and how many demonstrations
with the recorder's disturbance succeed. Of a policy: the figures of `pi0_edge.evaluation.multimodality`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.machine import describe_machine
from pi0_edge.evaluation.multimodality import measure_policy_ways
from pi0_edge.evaluation.statistics import wilson_interval
from pi0_edge.policy import Policy
from pi0_edge.sim.aloha_two_ways import WAYS, AlohaTwoWays
from pi0_edge.sim.demonstration import disturbance_of
from pi0_edge.sim.tasks import way_of
from pi0_edge.sim.two_ways_expert import TwoWaysExpert

PANEL = 300
SHOWN_SEED = 4
SHOWN_TICK = 34


def play(env: AlohaTwoWays, setpoints: NDArray[np.floating], seed: int, stop_at_target: bool = True) -> int:
    """Plays one episode and returns its ticks; it ends at a touch, and at the target where that is asked for."""
    env.reset(seed)
    for tick, setpoint in enumerate(setpoints, start=1):
        env.step(setpoint)
        if env.failed or (stop_at_target and env.success):
            return tick
    return len(setpoints)


def expert_figures(env: AlohaTwoWays, expert: TwoWaysExpert, scenes: int) -> dict[str, object]:
    """What the expert does in the scenes that are kept for evaluation."""
    ticks, taken, disturbed = [], [], 0
    for seed in range(scenes):
        env.reset(seed)
        taken.append(way_of(seed, len(WAYS)))
        setpoints = expert.ways(env)[taken[-1]]
        needed = play(env, setpoints, seed)
        if env.success:
            ticks.append(needed)
        play(env, setpoints + disturbance_of(seed, len(setpoints)), seed, stop_at_target=False)
        disturbed += env.success
    return {
        "scenes": scenes,
        "successes": len(ticks),
        "success_interval_95": wilson_interval(len(ticks), scenes),
        "near_share": 1 - sum(taken) / scenes,
        "ticks_to_success": [min(ticks), float(np.mean(ticks)), max(ticks)],
        "demonstrations_kept": disturbed / scenes,
    }


def picture(env: AlohaTwoWays, expert: TwoWaysExpert) -> Image.Image:
    """Start, both ways beside the post, and their average at the same tick."""
    env.reset(SHOWN_SEED)
    panels = [env.render("top", PANEL, PANEL)]
    near, far = expert.ways(env)
    for setpoints in (near, far, (near + far) / 2):
        play(env, setpoints[:SHOWN_TICK], SHOWN_SEED)
        panels.append(env.render("top", PANEL, PANEL))
    line = np.full((PANEL, 4, 3), 255, np.uint8)
    return Image.fromarray(np.concatenate([part for panel in panels for part in (panel, line)][:-1], axis=1))


def main() -> None:
    """Measures, and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200, help="scenes for the expert; 0 leaves it out")
    parser.add_argument("--checkpoint", type=Path, help="policy to draw paths of")
    parser.add_argument("--engine", default="cpu")
    parser.add_argument("--scheme", default="fp32")
    parser.add_argument("--drawn", type=int, default=10, help="scenes for the policy, 64 paths each")
    parser.add_argument("--picture", type=Path, help="where to write the picture")
    options = parser.parse_args()
    env, expert = AlohaTwoWays(), TwoWaysExpert()
    found: dict[str, object] = {"machine": describe_machine()}
    if options.scenes:
        found["expert"] = expert_figures(env, expert, options.scenes)
    if options.checkpoint is not None:
        policy = Policy.load(options.checkpoint, options.engine, options.scheme)
        found["policy"] = measure_policy_ways(policy, range(options.drawn), env=env).to_dict()
    if options.picture is not None:
        picture(env, expert).save(options.picture)
    env.close()
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
