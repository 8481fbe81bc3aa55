"""Episodes for `benchmarks.mismatch_guard`: demonstrations with three cameras, and the shipped policy in closed loop.

The simulated robot gets three cameras: `top`, as the shipped policy has it, and gym-aloha's `left_pillar` and
`right_pillar` in the place of the two wrist cameras. What the pillars show of this symmetric robot is nearly mirrored.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.robots import Robot, load_robot
from pi0_edge.sim.aloha import CONTROL_HZ, POLICY_VIEW
from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube
from pi0_edge.sim.demonstration import disturbance_of
from pi0_edge.sim.expert import TransferCubeExpert
from pi0_edge.sim.tasks import TRANSFER_CUBE
from pi0_edge.synced_files import replace_synced
from pi0_edge.training_profile import TrainingEpisode
from pi0_edge.training_profile.pictures import thumbnail

SIZE = 112
EVERY = CONTROL_HZ // 2
"""Ticks between two observations."""

MOST_TICKS = 500
WIDER = dataclasses.replace(POLICY_VIEW, fovy=1.35 * POLICY_VIEW.fovy)
"""What `top` would show with another lens."""

VIEWS = {"top": "top", "left_wrist": "left_pillar", "right_wrist": "right_pillar"}
"""Cameras of the robot by name, and the cameras of the simulation that stand in their place."""


@dataclass(frozen=True)
class Recorded:
    """One ordinary episode.

    Attributes:
        seed: Of the cube pose and the noise.
        success: Whether the cube changed hands.
        ticks: int64 [n], of the observations; the first one is at rest.
        states: float32 [n, 14].
        images: Camera -> uint8 [n, 112, 112, 3]; `wider` is `top` with another lens.
        chunks: float32 [n, horizon, 14], the policy's answers.
    """

    seed: int
    success: bool
    ticks: NDArray[np.int64]
    states: NDArray[np.float32]
    images: dict[str, NDArray[np.uint8]]
    chunks: NDArray[np.float32]


def three_cameras() -> Robot:
    """The simulated ALOHA."""
    return load_robot("aloha_sim")


def render(env: AlohaTransferCube) -> dict[str, NDArray[np.uint8]]:
    """One image of every camera."""
    return {name: env.render(view, SIZE, SIZE) for name, view in VIEWS.items()}


def demonstration(env: AlohaTransferCube, expert: TransferCubeExpert, seed: int) -> TrainingEpisode:
    """What `pi0-edge record` records of one seed, with images of three cameras every half second."""
    env.reset(seed)
    x, y = env.cube_pose[:2]
    actions = expert.setpoints((float(x), float(y)))
    states, rows = np.empty_like(actions), range(0, len(actions), EVERY)
    images: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in VIEWS}
    for tick, setpoint in enumerate(actions + disturbance_of(seed, len(actions))):
        states[tick] = env.state
        if tick in rows:
            for name, image in render(env).items():
                images[name].append(thumbnail(image))
        env.step(setpoint)
    return TrainingEpisode(
        states=states.astype(np.float64),
        actions=actions.astype(np.float64),
        rows=tuple(rows),
        images={name: np.stack(views) for name, views in images.items()},
        sizes=dict.fromkeys(VIEWS, (SIZE, SIZE)),
        prompts=frozenset({TRANSFER_CUBE.prompt}),
    )


def closed_loop(env: AlohaTransferCube, policy: Policy, seed: int) -> Recorded:
    """One episode of a policy, which sees `top` alone, until the cube changed hands or 10 s are over."""
    env.reset(seed)
    ticks, states, chunks = [], [], []
    images: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in (*VIEWS, "wider")}
    for tick in range(0, MOST_TICKS, EVERY):
        seen = {**render(env), "wider": env.render(WIDER, SIZE, SIZE)}
        observation = Observation({"top": seen["top"]}, env.state, TRANSFER_CUBE.prompt)
        chunk = policy.infer(observation, noise_seed=seed * 10_000 + tick).actions
        ticks.append(tick)
        states.append(observation.state)
        chunks.append(chunk)
        for name, image in seen.items():
            images[name].append(image)
        for setpoint in chunk[:EVERY]:
            env.step(setpoint)
        if env.success:
            break
    stacked = {name: np.stack(views) for name, views in images.items()}
    return Recorded(
        seed, env.success, np.array(ticks), np.array(states, np.float32), stacked, np.array(chunks, np.float32)
    )


def kept(folder: Path, seed: int) -> Recorded | None:
    """The episode of a seed, if it was kept."""
    path = folder / f"{seed}.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        images = {name.removeprefix("images."): file[name] for name in file.files if name.startswith("images.")}
        return Recorded(seed, bool(file["success"]), file["ticks"], file["states"], images, file["chunks"])


def keep(folder: Path, episode: Recorded) -> None:
    """Writes an episode; its file appears complete or not at all."""
    temporary = folder / f".{episode.seed}.npz"
    arrays: dict[str, Any] = {f"images.{name}": images for name, images in episode.images.items()}
    arrays |= {"ticks": episode.ticks, "states": episode.states, "chunks": episode.chunks}
    with temporary.open("wb") as file:
        np.savez_compressed(file, success=np.array(episode.success), **arrays)
    replace_synced(temporary, folder / f"{episode.seed}.npz")
