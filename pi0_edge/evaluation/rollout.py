"""Runs a policy in a task of the simulation and counts how often it succeeds.

A rollout asks for a chunk, executes its first `executed` actions and asks again, without firmware and without delay:
this measures the policy alone. Every seed fixes both the scene and the noise of every chunk, so that two engines
meet the same situations and their successes can be compared in pairs. The baseline that closed-loop control must beat
is `replay`: recorded demonstrations, executed whatever the cameras show.

    evaluation = evaluate(Policy.load("checkpoint"), range(100))
    evaluation.success_rate, evaluation.interval
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ConfigError, DatasetError
from pi0_edge.evaluation.statistics import Evaluation, Rollout
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.sim.aloha import CONTROL_HZ, SimulatedAloha
from pi0_edge.sim.tasks import TASKS, TRANSFER_CUBE, SimulatedTask, simulated_task

Controller = Callable[[SimulatedAloha, int], NDArray[np.float64]]
"""Gives the setpoints [n, 14] to execute from this tick on."""


def evaluate(
    policy: Policy,
    seeds: Sequence[int] = range(100),
    *,
    task: str | None = None,
    prompt: str | None = None,
    executed: int = 25,
    image_age_s: float = 0.0,
    name: str = "evaluating",
    on_progress: ProgressCallback | None = None,
) -> Evaluation:
    """Runs one episode per seed.

    Args:
        policy: Any policy for the robot of the task: one camera `top`, 14 joints, or 7 of one arm.
        seeds: Scene and noise of each episode; training never saw 0 to 999.
        task: Name in `pi0_edge.sim.tasks.TASKS`; that of the policy where None, see `task_of`.
        prompt: What the policy shall do; where None, see `prompt_of`.
        executed: Actions of a chunk that are executed before the next one.
        image_age_s: How much older the images are than the state that comes with them, seconds, as with
            `pi0-edge serve --stale-prefix`; the first ones of an episode are as old as the state.
        name: Stage that `on_progress` gets.
        on_progress: Is called after every episode; its note counts the successes.

    Raises:
        ConfigError: If there is no such task, or the images are older than the chunk before.
        ObservationError: If the policy's robot is not the simulated one.
        MissingDependencyError: If the simulation is not installed.
    """
    chosen = task_of(policy) if task is None else simulated_task(task)
    told = prompt_of(policy, chosen) if prompt is None else prompt
    age = round(image_age_s * CONTROL_HZ)
    if not 0 <= age <= executed:
        between = 1e3 * executed / CONTROL_HZ
        raise ConfigError(
            f"images are {1e3 * image_age_s:g} ms old; expected 0 to {between:g}, the time between two chunks"
        )
    return _evaluate(
        chosen, lambda seed: policy_controller(policy, told, executed, seed, age), seeds, name, on_progress
    )


def replay(
    dataset: str | Path,
    seeds: Sequence[int] = range(100),
    *,
    task: str = TRANSFER_CUBE.name,
    name: str = "replay",
    on_progress: ProgressCallback | None = None,
) -> Evaluation:
    """Executes recorded demonstrations open-loop; seed s replays demonstration s modulo their number.

    Args:
        dataset: LeRobotDataset folder of the simulated ALOHA.
        seeds: Scene of each episode.
        task: Name in `pi0_edge.sim.tasks.TASKS`.
        name: Stage that `on_progress` gets.
        on_progress: Is called after every episode; its note counts the successes.

    Raises:
        ConfigError: If there is no such task.
        DatasetError: If the dataset has no episode, or its actions are not those of the simulated ALOHA.
    """
    from pi0_edge.datasets.lerobot_reader import LeRobotDataset  # needs pyarrow and PyAV

    chosen = simulated_task(task)
    demonstrations = LeRobotDataset(dataset)
    episodes, joints = demonstrations.episodes, len(chosen.environment.joint_names())
    if not episodes:
        raise DatasetError(f"{dataset} has no episode to replay")

    def controller(seed: int) -> Controller:
        _, actions = demonstrations.episode(episodes[seed % len(episodes)].index)
        if actions.shape[1] != joints:
            raise DatasetError(f"{dataset} has actions of {actions.shape[1]} joints, expected {joints}")
        return replay_controller(actions)

    return _evaluate(chosen, controller, seeds, name, on_progress)


def task_of(policy: Policy) -> SimulatedTask:
    """The task whose prompt is the default of the policy's robot; the cube transfer where none is."""
    default = policy.processor.robot.default_prompt
    return next((task for task in TASKS.values() if task.prompt == default), TRANSFER_CUBE)


def prompt_of(policy: Policy, task: SimulatedTask) -> str:
    """What a policy is told in a task: the default of its robot, unless that is missing or another task's."""
    default = policy.processor.robot.default_prompt
    if default is None or any(default == other.prompt for other in TASKS.values()):
        return task.prompt
    return default


def observe(env: SimulatedAloha, prompt: str, image_size: int) -> Observation:
    """The observation of the simulation now, with one square image."""
    return Observation({"top": env.render("top", image_size, image_size)}, env.state, prompt)


def policy_controller(policy: Policy, prompt: str, executed: int, seed: int, image_age: int = 0) -> Controller:
    """Asks the policy for a chunk and executes its first `executed` actions.

    The images of a chunk are `image_age` ticks old, at most `executed`; those of the first one are new. So a chunk is
    executed in two parts, between which the images of the next one are taken.
    """
    size = policy.engine.config.vision.image_size
    waiting: list[NDArray[np.float64]] = []
    taken: list[Observation] = []

    def control(env: SimulatedAloha, tick: int) -> NDArray[np.float64]:
        if waiting:
            taken[:] = [observe(env, prompt, size)]
            return waiting.pop()
        now = observe(env, prompt, size)
        seen = replace(now, images=taken[0].images) if taken else now
        actions = policy.infer(seen, noise_seed=seed * 10_000 + tick).actions[:executed]
        if not image_age:
            return actions
        waiting.append(actions[executed - image_age :])
        return actions[: executed - image_age]

    return control


def replay_controller(actions: NDArray[np.float32]) -> Controller:
    """Executes a recorded episode, [ticks, 14], whatever the cameras show."""

    def control(env: SimulatedAloha, tick: int) -> NDArray[np.float64]:
        return actions[min(tick, len(actions) - 1) :].astype(np.float64)

    return control


def roll_out(env: SimulatedAloha, controller: Controller, seed: int, max_ticks: int) -> Rollout:
    """Runs one episode until success, a failure that is final, or `max_ticks`."""
    env.reset(seed)
    tick, best = 0, 0.0
    while tick < max_ticks and not env.failed:
        for setpoint in controller(env, tick)[: max_ticks - tick]:
            env.step(setpoint)
            tick += 1
            best = max(best, env.reward)
            if env.success:
                return Rollout(seed, True, tick, best)
            if env.failed:
                break
    return Rollout(seed, False, max_ticks, best)


def _evaluate(
    task: SimulatedTask,
    controller: Callable[[int], Controller],
    seeds: Sequence[int],
    name: str,
    on_progress: ProgressCallback | None,
) -> Evaluation:
    rollouts: list[Rollout] = []
    stage = Stage(name, len(seeds), on_progress)
    env = task.environment()
    try:
        for seed in seeds:
            rollouts.append(roll_out(env, controller(seed), seed, task.max_ticks))
            stage.advance(f"{sum(rollout.success for rollout in rollouts)} of {len(rollouts)} succeed")
    finally:
        env.close()
    return Evaluation(tuple(rollouts))
