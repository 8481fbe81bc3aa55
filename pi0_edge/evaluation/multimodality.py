"""Does a policy keep two equally good ways apart? Figures of the paths that it draws in the task `two-ways`.

A path is what a policy does with one seed from the start of a scene: its chunk, or several where its chunks are shorter
than a path. Many paths are drawn in every scene, each is played in the simulation, and all are compared with both ways
of the expert. An average of the ways touches the post; a policy that knows one way passes it on one side; and one that
answers with noise moves with a jerk, however seldom it touches the post: read the figures together.

    figures = measure_ways(policy_sampler(policy), range(10))
    figures.collision_rate, figures.share, figures.distance, figures.floor

How a path is compared (all over the joints of the right arm, radians):

* distance of sets: sliced 2-Wasserstein distance (Bonneel et al. 2015, Sliced and Radon Wasserstein barycenters of
  measures, eq. 9): the root mean, over random directions on the unit sphere, of the squared 2-Wasserstein distance of
  the projections, which in one dimension is the mean squared difference of sorted values. Of two single paths, it is
  their root mean square difference per setpoint.
* jerk: root mean square third difference of the setpoints (Flash and Hogan 1985 take the square of the third derivative
  as the cost of a motion).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ConfigError, ObservationError
from pi0_edge.evaluation.rollout import observe, prompt_of
from pi0_edge.evaluation.statistics import wilson_interval
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.sim.aloha import CONTROL_HZ, HOME, JOINT_NAMES
from pi0_edge.sim.aloha_two_ways import WAYS, AlohaTwoWays
from pi0_edge.sim.tasks import TWO_WAYS
from pi0_edge.sim.two_ways_expert import TwoWaysExpert

PATH_TICKS = 50
"""Length of a path: one second, in which the expert has passed the post."""

MIN_DRAWS = 64
"""Paths per scene below which a share of ways and a distance of sets say little."""

DIRECTIONS = 256
"""On which sets of paths are projected."""

FLOOR_SETS = 8
"""Sets of the expert's paths per scene that the floor is the mean of."""

MOVING = [index for index, name in enumerate(JOINT_NAMES) if name.startswith("right") and not name.endswith("gripper")]
"""Joints of the arm that moves."""

Sampler = Callable[[Observation, int], NDArray[np.floating]]
"""Observation and seed -> a chunk of setpoints [n, 14], physical units."""

Outcome = Literal["near", "far", "touched", "neither"]
"""The side on which a path passed the post; or that it touched the post, or did not get past it."""


@dataclass(frozen=True)
class DrawnPaths:
    """The paths of one scene.

    Attributes:
        seed: Of the scene.
        paths: float64 [draws, ticks, 14], the setpoints that the policy gave; the simulation stands still after a touch
            of the post.
        outcomes: One per path.
        ways: float64 [2, ticks, 14], what the expert does, in the order of `WAYS`.
    """

    seed: int
    paths: NDArray[np.float64]
    outcomes: tuple[Outcome, ...]
    ways: NDArray[np.float64]


@dataclass(frozen=True)
class WaysFigures:
    """Figures of a policy over all scenes.

    Attributes:
        scenes: How many.
        paths: How many were drawn, in all scenes together.
        collisions: Paths that touched the post.
        neither: Paths that neither touched nor passed it.
        near: Paths that passed it on the operator's side.
        far: Paths that passed it on the other side.
        jerk: Root mean square of all joints and ticks, rad/s³.
        expert_jerk: The same of the expert.
        mode_error: Root mean square distance of a path to the expert's nearest way, rad per setpoint.
        distance: Sliced 2-Wasserstein distance to both ways in equal shares, mean over scenes, rad per setpoint.
        floor: The same of as many paths that the expert draws, mean over `FLOOR_SETS` sets: what a perfect policy would
            get, whose shares vary with the draws.
    """

    scenes: int
    paths: int
    collisions: int
    neither: int
    near: int
    far: int
    jerk: float
    expert_jerk: float
    mode_error: float
    distance: float
    floor: float

    @property
    def collision_rate(self) -> float:
        """Share of the paths that touched the post."""
        return self.collisions / self.paths

    @property
    def collision_interval(self) -> tuple[float, float]:
        """95 % confidence interval of `collision_rate`, see `wilson_interval`."""
        return wilson_interval(self.collisions, self.paths)

    @property
    def share(self) -> float | None:
        """Share of the near way among the paths that passed the post; None where none did."""
        passed = self.near + self.far
        return self.near / passed if passed else None

    @property
    def share_interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of `share`, see `wilson_interval`; None where no path passed the post."""
        passed = self.near + self.far
        return wilson_interval(self.near, passed) if passed else None

    def to_dict(self) -> dict[str, Any]:
        """All figures in types that JSON has."""
        share = self.share_interval
        return {
            **asdict(self),
            "collision_rate": self.collision_rate,
            "collision_interval_95": list(self.collision_interval),
            "near_share": self.share,
            "near_share_interval_95": None if share is None else list(share),
        }


def policy_sampler(policy: Policy) -> Sampler:
    """What a policy answers, as a function of observation and seed of its noise."""

    def sample(observation: Observation, seed: int) -> NDArray[np.float64]:
        return policy.infer(observation, noise_seed=seed).actions

    return sample


def expert_sampler(env: AlohaTwoWays, expert: TwoWaysExpert) -> Sampler:
    """The expert on the scene of `env`, from its start, each way with equal chance: what a policy imitates."""
    known: dict[bytes, tuple[NDArray[np.float32], ...]] = {}

    def sample(observation: Observation, seed: int) -> NDArray[np.float32]:
        scene = env.post.tobytes() + env.target.tobytes()
        ways = known[scene] = known.get(scene) or expert.ways(env)
        return ways[int(np.random.default_rng(seed).integers(len(ways)))]

    return sample


def measure_ways(
    sample: Sampler,
    seeds: Sequence[int] = range(10),
    *,
    draws: int = MIN_DRAWS,
    executed: int = PATH_TICKS,
    image_size: int = 112,
    prompt: str = TWO_WAYS.prompt,
    env: AlohaTwoWays | None = None,
    name: str = "drawing paths",
    on_progress: ProgressCallback | None = None,
) -> WaysFigures:
    """Draws paths in every scene, plays them, and compares them with the expert's.

    Args:
        sample: The policy, see `policy_sampler`.
        seeds: Of the scenes; training never saw 0 to 999.
        draws: Paths per scene, each with a seed of its own.
        executed: Actions of a chunk that are executed before the next one is asked for; at most all of it.
        image_size: Of the policy's camera, pixels.
        prompt: What the policy is told.
        env: The simulation; a new one where None.
        name: Stage that `on_progress` gets.
        on_progress: Is called after every scene; its note counts the paths that touched the post.

    Raises:
        ConfigError: If no scene is given, or fewer than `MIN_DRAWS` draws.
        ObservationError: If a chunk of the policy is not one of this robot.
        MissingDependencyError: If the simulation is not installed.
    """
    if not len(seeds) or draws < MIN_DRAWS or executed < 1:
        raise ConfigError(
            f"found {len(seeds)} scenes, {draws} draws and {executed} executed actions; expected at least one scene, "
            f"{MIN_DRAWS} draws of it and one action"
        )
    stage = Stage(name, len(seeds), on_progress)
    table, expert = env or AlohaTwoWays(), TwoWaysExpert()
    scenes: list[DrawnPaths] = []
    try:
        for seed in seeds:
            scenes.append(draw_paths(table, expert, sample, seed, draws, executed, image_size, prompt))
            touched = sum(scene.outcomes.count("touched") for scene in scenes)
            stage.advance(f"{touched} of {draws * len(scenes)} touch the post")
    finally:
        if env is None:
            table.close()
    return figures_of(scenes)


def measure_policy_ways(policy: Policy, seeds: Sequence[int] = range(10), **options: Any) -> WaysFigures:
    """`measure_ways` with the image size and the prompt of a policy; `options` are its other arguments."""
    size, prompt = policy.engine.config.vision.image_size, prompt_of(policy, TWO_WAYS)
    return measure_ways(policy_sampler(policy), seeds, image_size=size, prompt=prompt, **options)


def draw_paths(
    env: AlohaTwoWays,
    expert: TwoWaysExpert,
    sample: Sampler,
    seed: int,
    draws: int,
    executed: int = PATH_TICKS,
    image_size: int = 112,
    prompt: str = TWO_WAYS.prompt,
) -> DrawnPaths:
    """Plays `draws` paths from the start of one scene; see `measure_ways` for the arguments."""
    env.reset(seed)
    start = observe(env, prompt, image_size)
    ways = np.stack([way[:PATH_TICKS] for way in expert.ways(env)]).astype(np.float64)
    paths: list[NDArray[np.float64]] = []
    outcomes: list[Outcome] = []
    known: dict[bytes, tuple[NDArray[np.float64], Outcome]] = {}  # the same first chunk of the whole path ends the same
    for draw in range(draws):
        first = (seed * draws + draw) * PATH_TICKS  # a seed of its own for every chunk
        chunk = _asked(sample, start, first)[: min(executed, PATH_TICKS)]
        key = chunk.tobytes()
        if key not in known or len(chunk) < PATH_TICKS:
            env.reset(seed)
            played = [_played(env, chunk)]
            while (ticks := sum(map(len, played))) < PATH_TICKS:
                chunk = _asked(sample, observe(env, prompt, image_size), first + ticks)
                played.append(_played(env, chunk[: min(executed, PATH_TICKS - ticks)]))
            known[key] = np.concatenate(played), outcome_of(env)
        path, outcome = known[key]
        paths.append(path)
        outcomes.append(outcome)
    return DrawnPaths(seed, np.stack(paths), tuple(outcomes), ways)


def figures_of(scenes: Sequence[DrawnPaths]) -> WaysFigures:
    """The figures of all scenes together."""
    counts = {kind: sum(scene.outcomes.count(kind) for scene in scenes) for kind in (*WAYS, "touched", "neither")}
    distances, floors, errors = [], [], []
    for scene in scenes:
        rng = np.random.default_rng(scene.seed)
        paths, ways = scene.paths[:, :, MOVING], scene.ways[:, :, MOVING]
        directions = unit_directions(DIRECTIONS, paths[0].size, rng)
        balanced = ways[np.arange(len(paths)) % len(ways)]
        distances.append(sliced_wasserstein(paths, balanced, directions))
        for _ in range(FLOOR_SETS):
            drawn = ways[rng.integers(len(ways), size=len(paths))]
            floors.append(sliced_wasserstein(drawn, balanced, directions))
        errors.append(((paths[:, None] - ways[None]) ** 2).mean((-2, -1)).min(1))
    return WaysFigures(
        scenes=len(scenes),
        paths=sum(counts.values()),
        collisions=counts["touched"],
        neither=counts["neither"],
        near=counts["near"],
        far=counts["far"],
        jerk=rms_jerk(np.concatenate([scene.paths for scene in scenes])[:, :, MOVING], MOVING),
        expert_jerk=rms_jerk(np.concatenate([scene.ways for scene in scenes])[:, :, MOVING], MOVING),
        mode_error=float(np.sqrt(np.mean(errors))),
        distance=float(np.mean(distances)),
        floor=float(np.mean(floors)),
    )


def unit_directions(count: int, dimensions: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Directions drawn evenly from the unit sphere, [count, dimensions]."""
    directions = rng.standard_normal((count, dimensions))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def sliced_wasserstein(
    first: NDArray[np.floating], second: NDArray[np.floating], directions: NDArray[np.float64]
) -> float:
    """Sliced 2-Wasserstein distance of two equally large sets of points (Bonneel et al. 2015, eq. 9).

    Args:
        first: [points, ...].
        second: As `first`.
        directions: Unit vectors, [directions, numbers of a point].

    Returns:
        The distance in the unit of the points. Two single points are as far apart as the root mean square of their
        differences, in expectation over the directions.

    Raises:
        ValueError: If the sets are not equally large.
    """
    if first.shape != second.shape:
        raise ValueError(f"only equally large sets can be compared, found {first.shape} and {second.shape}")
    ours, theirs = (np.sort(points.reshape(len(points), -1) @ directions.T, axis=0) for points in (first, second))
    return float(np.sqrt(((ours - theirs) ** 2).mean()))


def rms_jerk(paths: NDArray[np.floating], joints: Sequence[int]) -> float:
    """Root mean square third difference of paths, per second³; the start from home counts.

    Args:
        paths: [paths, ticks, joints].
        joints: Which of `JOINT_NAMES` they are of.
    """
    home = np.broadcast_to(HOME[list(joints)].astype(np.float64), (len(paths), 3, len(joints)))
    jerk = np.diff(np.concatenate([home, paths], axis=1), n=3, axis=1) * CONTROL_HZ**3
    return float(np.sqrt((jerk**2).mean()))


def _asked(sample: Sampler, observation: Observation, seed: int) -> NDArray[np.float64]:
    chunk = np.asarray(sample(observation, seed), np.float64)
    if chunk.ndim != 2 or not len(chunk) or chunk.shape[1] != len(JOINT_NAMES) or not np.isfinite(chunk).all():
        raise ObservationError(
            f"the policy answered with a chunk of shape {list(chunk.shape)}; expected finite numbers [n, 14], n >= 1"
        )
    return chunk


def _played(env: AlohaTwoWays, setpoints: NDArray[np.float64]) -> NDArray[np.float64]:
    """Executes setpoints until the post is touched, and gives them all back."""
    for setpoint in setpoints:
        if env.failed:
            break
        env.step(setpoint)
    return setpoints


def outcome_of(env: AlohaTwoWays) -> Outcome:
    """How a path that was played in `env` has ended."""
    if env.failed:
        return "touched"
    way = env.way
    return "neither" if way is None else "near" if way == "near" else "far"
