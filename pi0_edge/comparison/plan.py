"""What the comparison consists of: heads, chunk lengths, ways of decoding, seeds, and how long each part may take.

Training is limited by the processor time of one thread and not by steps: a step of one head costs more than that of
another. A machine that does other work meanwhile only takes longer.

The chunk of a head is as it was published, and 50 actions besides where that can be trained. Half of a chunk is
executed before the next one is asked for, as openpi does it with π0; of chunks of 4 and 1 all is executed, as Octo and
RT-2 do it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from pi0_edge.model import PRESETS, GemmaConfig, Head, Pi0Config, VisionConfig
from pi0_edge.sim.tasks import TRANSFER_CUBE, TWO_WAYS

RECORDED_EPISODE_S = {TWO_WAYS.name: 0.5, TRANSFER_CUBE.name: 1.7}
"""Processor seconds to record one demonstration: simulation, 2.7 ms an image, and the encoding of the video."""
DRAWN_PATH_S = 0.04
"""Processor seconds of a path of two ways, in the same way."""
PLAYED_FACTOR = {1: 8.0, 4: 2.2, 8: 2.0, 25: 1.0}
"""Rough cost of an episode by the actions that are executed of each chunk, relative to 25: images and chunks."""
EXPERTS_ALONE = 0.35
"""Share of the time of the backbone in which experts and heads learn and it does not: random ones would spoil it."""
PLAYED_EPISODE_S = {TWO_WAYS.name: 0.06, TRANSFER_CUBE.name: 0.35}
"""Processor seconds of an episode with 25 executed actions of each chunk."""


@dataclass(frozen=True)
class Decoding:
    """One way to make a chunk with the same weights.

    Attributes:
        name: Such as `10 steps` or `greedy`.
        steps: Euler, DDPM or DDIM steps; 1 where there are none.
        sampled: Whether tokens are drawn instead of being the likeliest.
    """

    name: str
    steps: int = 1
    sampled: bool = False


@dataclass(frozen=True)
class Variant:
    """A head with one length of chunks; it is trained by itself.

    Attributes:
        name: Such as `octo-4`.
        head: The head.
        horizon: Actions of a chunk.
        executed: How many of them are executed before the next chunk.
        decodings: Ways to make chunks with its weights, the published one first.
        published: Whether the chunk is as long as it was published.
    """

    name: str
    head: Head
    horizon: int
    executed: int
    decodings: tuple[Decoding, ...]
    published: bool = True

    def config(self, base: Pi0Config, dims: int) -> Pi0Config:
        """The sizes of its network for a robot of `dims` joints, on a π0 of the sizes `base`."""
        sizes = {"head": self.head, "horizon": self.horizon}
        return dataclasses.replace(base, **sizes, **({} if self.head == "flow" else {"real_dims": dims}))


def _steps(*counts: int) -> tuple[Decoding, ...]:
    return tuple(Decoding(f"{count} step{'s' if count > 1 else ''}", count) for count in counts)


TOKENS = (Decoding("greedy"), Decoding("sampled", sampled=True))
VARIANTS = (
    Variant("flow-50", "flow", 50, 25, _steps(10, 5, 2, 1)),
    Variant("rt2-1", "rt2", 1, 1, TOKENS),
    Variant("octo-4", "octo", 4, 4, _steps(20, 5)),
    Variant("octo-50", "octo", 50, 25, _steps(20, 5), published=False),
    Variant("tinyvla-16", "tinyvla", 16, 8, _steps(10, 5, 1)),
    Variant("mse-50", "mse", 50, 25, (Decoding("one pass"),)),
)
RT2_LONG = Variant("rt2-50", "rt2", 50, 25, (Decoding("greedy"),), published=False)
"""700 tokens one after the other: timed, not trained."""


@dataclass(frozen=True)
class TaskBudget:
    """How much is spent on one task.

    Attributes:
        name: Of the task in `pi0_edge.sim.tasks`.
        episodes: Demonstrations; the last `held_out` of them are for the held-out loss alone.
        held_out: See above.
        vision_s: Processor seconds of the vision warm-up; 0 leaves it out.
        backbone_s: Processor seconds in which all heads train in turn: for the first `EXPERTS_ALONE` of them experts
            and heads alone, then together with vision tower and prefix.
        backbone_rate: Learning rate of the second part, of experts and heads as well as of vision tower and prefix.
        tuning_s: Processor seconds for each learning rate that is tried, in each of which the rate falls to its end:
            the best one of so short a training need not be the best one of `cell_s`.
        cell_s: Processor seconds of training of each cell.
        scenes: Episodes that each cell plays.
        drawn: Scenes in which `draws` paths are drawn; 0 where the task has one way.
        precise: Scenes in which chunks are compared with the expert's setpoints.
    """

    name: str
    episodes: int
    held_out: int
    vision_s: float
    backbone_s: float
    backbone_rate: float
    tuning_s: float
    cell_s: float
    scenes: int
    drawn: int
    precise: int = 10


@dataclass(frozen=True)
class Plan:
    """Everything that decides what is computed; a folder holds the results of one plan.

    Attributes:
        network: Sizes of vision, prefix and expert.
        from_shipped: Whether vision tower and prefix start from those of the shipped policy, whose sizes `network` has
            then, and not from random weights.
        tasks: With their budgets.
        variants: What is trained.
        timed: What is timed without being trained.
        rates: Learning rates that are tried for each head.
        seeds: Of the cells: initial weights and batches.
        batch: Observations per optimizer step.
        draws: Paths in each drawn scene.
        latency_s: Wall seconds for which each variant is timed; a percentile needs as many samples as it needs.
        latency_samples: Chunks that are timed at most.
        clock_episodes: Episodes that each head plays through the emulated firmware; 0 for none.
    """

    network: Pi0Config
    tasks: tuple[TaskBudget, ...]
    variants: tuple[Variant, ...] = VARIANTS
    timed: tuple[Variant, ...] = (RT2_LONG,)
    rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3)
    seeds: tuple[int, ...] = (0, 1, 2)
    batch: int = 32
    draws: int = 64
    latency_s: float = 25.0
    latency_samples: int = 600
    clock_episodes: int = 1
    from_shipped: bool = False

    def cells(self) -> Iterator[tuple[TaskBudget, Variant, int]]:
        """Every cell of the table: what is trained once."""
        for task in self.tasks:
            for variant in self.variants:
                for seed in self.seeds:
                    yield task, variant, seed

    def to_dict(self) -> dict[str, object]:
        """In types that JSON has."""
        return dataclasses.asdict(self)


def expected_s(plan: Plan) -> dict[str, float]:
    """Seconds of a processor of every stage, about; the last two run alone, in wall seconds."""
    tasks = plan.tasks
    return {
        "recording": sum(RECORDED_EPISODE_S[task.name] * task.episodes for task in tasks),
        "backbones": sum(backbone_s(task) for task in tasks),
        "learning rates": sum(task.tuning_s * len(plan.variants) * len(plan.rates) for task in tasks),
        "training": sum(task.cell_s for task, _, _ in plan.cells()),
        "playing": sum(played_s(plan, task, variant) for task, variant, _ in plan.cells() for _ in variant.decodings),
        "latency": plan.latency_s * sum(len(one.decodings) for one in (*plan.variants, *plan.timed)) / 2.5,
        "clock": 30.0 * plan.clock_episodes * len(plan.variants),
    }


def backbone_s(task: TaskBudget) -> float:
    """Processor seconds of a backbone: its training, and keys and values of 50 to 200 images of each episode."""
    return task.vision_s + task.backbone_s + 0.3 * task.episodes


def played_s(plan: Plan, task: TaskBudget, variant: Variant) -> float:
    """Processor seconds in which one cell plays with one way of decoding."""
    paths = task.scenes * PLAYED_EPISODE_S[task.name] + task.drawn * plan.draws * DRAWN_PATH_S
    return 5.0 + paths * PLAYED_FACTOR.get(variant.executed, 2.0)


FULL = Plan(
    PRESETS["pi0-cube"],
    (
        TaskBudget(TWO_WAYS.name, 300, 20, 100, 720, 1e-3, 15, 120, scenes=50, drawn=3),
        TaskBudget(TRANSFER_CUBE.name, 200, 12, 0, 600, 2e-4, 15, 120, scenes=40, drawn=0, precise=4),
    ),
    from_shipped=True,
)
"""The table: about 90 minutes on two cores."""

SHORT = Plan(
    Pi0Config(
        "pi0",
        VisionConfig(width=32, depth=1, mlp_dim=32, heads=2, patch_size=28, image_size=112),
        GemmaConfig(width=32, depth=2, mlp_dim=32, heads=2, kv_heads=1, head_dim=16),
        GemmaConfig(width=32, depth=2, mlp_dim=64, heads=2, kv_heads=1, head_dim=16),
        vocab_size=512,
        action_dim=14,
        max_prompt_tokens=16,
    ),
    (
        TaskBudget(TWO_WAYS.name, 16, 2, 4, 4, 1e-3, 1, 3, scenes=2, drawn=1, precise=1),
        TaskBudget(TRANSFER_CUBE.name, 4, 1, 0, 4, 1e-3, 1, 2, scenes=1, drawn=0, precise=1),
    ),
    rates=(1e-3,),
    seeds=(0,),
    draws=8,
    latency_s=0.5,
    latency_samples=50,
    clock_episodes=0,
)
"""Everything once on a network that learns nothing: whether it runs, in two minutes."""


def command_of(plan: Plan) -> str:
    """What computes a plan."""
    command = "pi0-edge compare-heads"
    return {FULL: command, SHORT: f"{command} --short"}.get(plan, "compare_heads with a plan of its own")
