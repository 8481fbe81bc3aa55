"""The mismatch guard on the simulated cube transfer: false alarms of ordinary episodes, detections of planted mistakes.

    python -m benchmarks.mismatch_guard [--episodes 200] [--planted 50] [--folder build/mismatch_guard]

Ordinary episodes are the shipped policy in closed loop, seeds from 0 on, whether it succeeds or not. The guard looks at
30 observations at rest, at the first chunk, and then at an observation and a chunk every half second. Two profiles are
judged: that of the shipped policy with its one camera (`pi0_edge/assets`), and one that is collected here from 100
demonstrations (seeds from 100,000 on, so none of those episodes) with three cameras. `other light` is no mistake
either: exposure 0.75 to 1.3, gamma 0.8 to 1.25, white balance by 7 %, noise, and cameras nudged by a pixel.

Every kind of mistake is planted into as many of the episodes, each with a choice of its own (which joint, how far).
The recorded motion stays as it was: the policy does not answer to the mistake.

Episodes and judgements are kept in `--folder`; a run that was interrupted goes on there. The results are
`--output` (.txt and .json) and the table in docs/mismatch.md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import describe_machine
from benchmarks.mismatch_episodes import (
    SIZE,
    VIEWS,
    Recorded,
    closed_loop,
    demonstration,
    keep,
    kept,
    three_cameras,
)
from benchmarks.mismatch_mistakes import Mistake, Scene, mistakes, other_light, scene
from pi0_edge.cameras import CameraImage
from pi0_edge.policy import Policy
from pi0_edge.protos import bridge_pb2
from pi0_edge.run.events import Answered, Observed
from pi0_edge.run.mismatch import Mismatch, MismatchGuard
from pi0_edge.shipped import shipped_checkpoint
from pi0_edge.sim.aloha import CONTROL_HZ
from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube
from pi0_edge.sim.expert import TransferCubeExpert
from pi0_edge.sim.tasks import TRANSFER_CUBE
from pi0_edge.training_profile import TrainingProfile, collect_profile, find_training_profile, load_training_profile

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "mismatch.md"
OUTPUT = ROOT / "benchmarks" / "results" / "mismatch_guard"
DEMONSTRATIONS = range(100_000, 100_100)
AT_REST = 30
ORDINARY, OTHER_LIGHT = "no mistake", "no mistake, other light"


@dataclass(frozen=True)
class Judged:
    """What the guard found in one episode.

    Attributes:
        refused: Rules that refused before arming, the first chunk included.
        warned: Rules that warned then.
        stopped: Rules that refused while running.
        told: Rules that warned then.
    """

    refused: list[str]
    warned: list[str]
    stopped: list[str]
    told: list[str]


def judge(profile: TrainingProfile, found: Scene) -> Judged:
    """Shows an episode to a guard."""
    guard = MismatchGuard(profile, found.robot, cameras=found.cameras, prompt=found.prompt)
    at_rest = [(found.states[0], images(found, 0, k * 20_000_000)) for k in range(AT_REST)]
    before = guard.before_arming(at_rest) + guard.first_chunk(found.states[0], found.chunks[0])
    for place, tick in enumerate(found.ticks.tolist()):
        time_ns = round(1e9 * (1 + tick / found.hz))
        observed = Observed(
            tick=tick,
            time_ns=time_ns,
            images=images(found, place, time_ns),
            state=found.states[place].astype(np.float32),
            prompt=found.prompt,
            noise_seed=0,
        )
        guard.on_observed(observed)
        report = bridge_pb2.ChunkReport()
        guard.on_answered(Answered(observed, time_ns, found.chunks[place].astype(np.float32), (), 0.0, 0.0, report))
    (refused, warned), (stopped, told) = split(before), split(guard.mismatches)
    return Judged(refused, warned, stopped, told)


def images(found: Scene, place: int, time_ns: int) -> dict[str, CameraImage]:
    """The images of one moment."""
    return {
        camera: CameraImage(views[place], 0 if camera in found.stale else time_ns, place)
        for camera, views in found.images.items()
    }


def split(mismatches: Iterable[Mismatch]) -> tuple[list[str], list[str]]:
    """Rules that refuse and rules that warn, without those that say what cannot be checked."""
    mismatches = list(mismatches)
    return (
        sorted({mismatch.rule for mismatch in mismatches if mismatch.refuses}),
        sorted({mismatch.rule for mismatch in mismatches if not mismatch.refuses}),
    )


def ordinary_episodes(folder: Path, count: int) -> list[Recorded]:
    """Episodes of the shipped policy, those that were kept and the others."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(kept(folder, seed) is None for seed in range(count)):
        policy, env = Policy.load(shipped_checkpoint()), AlohaTransferCube()
        for seed in range(count):
            if kept(folder, seed) is None:
                keep(folder, closed_loop(env, policy, seed))
            tell("episodes", seed + 1, count)
        env.close()
    found = [episode for seed in range(count) if (episode := kept(folder, seed)) is not None]
    return found


def three_camera_profile(path: Path) -> TrainingProfile:
    """The profile of demonstrations with three cameras."""
    if not path.is_file():
        expert, env = TransferCubeExpert(), AlohaTransferCube()
        episodes = []
        for place, seed in enumerate(DEMONSTRATIONS):
            episodes.append(demonstration(env, expert, seed))
            tell("demonstrations", place + 1, len(DEMONSTRATIONS))
        env.close()
        collect_profile(three_cameras(), episodes, CONTROL_HZ, "demonstrations with three cameras").save(path)
    return load_training_profile(path)


def judgements(
    name: str,
    plant: Mistake | None,
    profile: TrainingProfile,
    cameras: tuple[str, ...],
    episodes: list[Recorded],
    path: Path,
) -> list[Judged]:
    """What the guard says to all episodes with one mistake, from the file where it was judged before."""
    found = [Judged(**line) for line in map(json.loads, path.read_text().splitlines())] if path.is_file() else []
    for place in range(len(found), len(episodes)):
        episode = episodes[place]
        shown = scene(episode, episodes[place - 1], three_cameras(), cameras, TRANSFER_CUBE.prompt)
        rng = np.random.default_rng((zlib.crc32(name.encode()), episode.seed))
        if plant is not None:
            shown = plant.plant(shown, rng)
        found.append(judge(profile, shown))
        with path.open("a") as file:
            file.write(json.dumps(found[-1].__dict__) + "\n")
        tell(name, place + 1, len(episodes))
    return found[: len(episodes)]


def row_of_alarms(name: str, judged: list[Judged]) -> str:
    """A row of the table of false alarms."""
    refused = sum(bool(one.refused or one.stopped) for one in judged)
    warned = sum(bool(one.warned or one.told) for one in judged)
    rules = Counter(rule for one in judged for rule in {*one.refused, *one.stopped, *one.warned, *one.told})
    which = ", ".join(f"`{rule}` {count}" for rule, count in rules.most_common()) or "–"
    return f"| {name} | {len(judged)} | {refused} | {warned} | {which} |"


def row_of_detections(mistake: Mistake, judged: list[Judged]) -> str:
    """A row of the table of detections."""

    def share(count: int) -> str:
        return f"{count / len(judged):.0%}"

    before = sum(bool(one.refused) for one in judged)
    running = sum(bool(one.stopped) for one in judged)
    refused = sum(bool(one.refused or one.stopped) for one in judged)
    told = sum(bool(one.refused or one.stopped or one.warned or one.told) for one in judged)
    named = sum(bool({*one.refused, *one.stopped, *one.warned, *one.told} & set(mistake.rules)) for one in judged)
    rules = ", ".join(f"`{rule}`" for rule in mistake.rules)
    cells = (mistake.name, rules, share(before), share(running), share(refused), share(told), share(named))
    return f"| {' | '.join(cells)} |"


def tell(what: str, done: int, total: int) -> None:
    """Prints progress in one line."""
    end = "\n" if done == total else ""
    print(f"\r{what}: {done} of {total}{end}", end="", file=sys.stderr, flush=True)


def main() -> None:
    """Runs what is not there yet, and writes tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--planted", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "mismatch_guard")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    episodes = ordinary_episodes(options.folder, options.episodes)
    shipped = find_training_profile(shipped_checkpoint())
    if shipped is None:
        raise SystemExit(f"{shipped_checkpoint()} has no training profile; make it as docs/mismatch.md says")
    three, all_cameras = three_camera_profile(options.folder / "three_cameras.json"), tuple(VIEWS)
    light = Mistake(OTHER_LIGHT, (), other_light)
    ordinary = {
        "shipped policy, `top`": (None, shipped, ("top",)),
        "three cameras": (None, three, all_cameras),
        "three cameras, other light": (light, three, all_cameras),
    }
    alarms = {
        name: judgements(name, plant, profile, cameras, episodes, options.folder / f"{slug(name)}.jsonl")
        for name, (plant, profile, cameras) in ordinary.items()
    }
    planted = mistakes()
    chosen = episodes[: options.planted]
    detections = {
        mistake.name: judgements(
            mistake.name, mistake, three, all_cameras, chosen, options.folder / f"{slug(mistake.name)}.jsonl"
        )
        for mistake in planted
    }
    successes = sum(episode.success for episode in episodes)
    lines = [
        f"{len(episodes)} episodes of the shipped policy in closed loop, seeds 0 to {len(episodes) - 1}, of which "
        f"{successes} succeed; {SIZE} x {SIZE} pixels.",
        "",
        "| no mistake | episodes | refused or stopped | warned | rules |",
        "|---|---|---|---|---|",
        *(row_of_alarms(name, judged) for name, judged in alarms.items()),
        "",
        f"Each mistake in {len(chosen)} episodes:",
        "",
        "| mistake | rule | refused before arming | stopped while running | either | or warned | named rightly |",
        "|---|---|---|---|---|---|---|",
        *(row_of_detections(mistake, detections[mistake.name]) for mistake in planted),
    ]
    table = "\n".join(lines)
    print(table)
    head = "$ python -m benchmarks.mismatch_guard\n"
    options.output.with_suffix(".txt").write_text(f"{head}{table}\n")
    everything = {name: [one.__dict__ for one in judged] for name, judged in {**alarms, **detections}.items()}
    summary = {"machine": describe_machine(), "episodes": len(episodes), "successes": successes, "judged": everything}
    options.output.with_suffix(".json").write_text(json.dumps(summary, separators=(",", ":")) + "\n")
    marks = "<!-- benchmarks.mismatch_guard -->", "<!-- end -->"
    replaced = f"{marks[0]}\n{table}\n{marks[1]}"
    DOCUMENT.write_text(re.sub(f"{marks[0]}.*?{marks[1]}", lambda _: replaced, DOCUMENT.read_text(), flags=re.DOTALL))


def slug(name: str) -> str:
    """A file name."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


if __name__ == "__main__":
    main()
