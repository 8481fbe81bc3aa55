"""`pi0-edge evaluate`: how often a policy succeeds in a task of the simulation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pi0_edge.cli.options import (
    BundleOption,
    CheckpointOption,
    EngineOption,
    JsonOption,
    PublicKeyOption,
    ThreadsOption,
    TruncatePromptsOption,
)
from pi0_edge.cli.output import Output

if TYPE_CHECKING:
    from pi0_edge.evaluation.statistics import Evaluation, Pairing, Rollout
    from pi0_edge.policy import Policy
    from pi0_edge.sim.tasks import SimulatedTask

REPLAY = "replay"
DEFAULT_SCHEME = "int8-w8a8"


def evaluate(
    checkpoint: CheckpointOption = None,
    bundle: BundleOption = None,
    scheme: Annotated[list[str] | None, typer.Option(help="Repeat it to compare schemes on the same seeds.")] = None,
    engine: EngineOption = "cpu",
    seeds: Annotated[str, typer.Option(help="A:B runs seeds A to B-1; training never saw 0 to 999.")] = "0:100",
    execute: Annotated[int, typer.Option(min=1, help="Actions executed before the next chunk.")] = 25,
    image_age: Annotated[
        float, typer.Option(min=0, help="Images are so many ms older than the state, as with `serve --stale-prefix`.")
    ] = 0.0,
    task: Annotated[str, typer.Option(help="transfer-cube, two-ways or two-ways-one-arm.")] = "transfer-cube",
    prompt: Annotated[str | None, typer.Option(help="What the policy is told; else what the task says.")] = None,
    baseline: Annotated[str | None, typer.Option(help="`replay`: also replay demonstrations open-loop.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="Demonstrations for the baseline.")] = None,
    require: Annotated[float, typer.Option(min=0, max=1, help="Exit with 1 below this success rate.")] = 0.0,
    truncate_prompts: TruncatePromptsOption = False,
    public_key: PublicKeyOption = None,
    per_seed: Annotated[bool, typer.Option("--per-seed", help="Also list every episode.")] = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count successes in the simulation, with a 95 % interval.

    Several schemes, or a bundle and schemes, run on the same seeds and are compared in pairs. A bundle may run
    whatever its accuracy gate said: success shows what that means.
    """
    from pi0_edge.cli.loading import load_policy
    from pi0_edge.engine import check_engine
    from pi0_edge.evaluation.rollout import evaluate as run_policy
    from pi0_edge.evaluation.rollout import replay
    from pi0_edge.evaluation.statistics import pair
    from pi0_edge.quant.scheme_files import load_scheme
    from pi0_edge.sim.tasks import simulated_task

    schemes = scheme or ([] if bundle is not None else [DEFAULT_SCHEME])
    for name in schemes:
        check_engine(engine, load_scheme(name))
    chosen, scene = _parse_seeds(seeds), simulated_task(task)
    told = {"task": task, "prompt": scene.prompt if prompt is None else prompt}
    how = {"executed": execute, "image_age_s": 1e-3 * image_age}
    demonstrations = _demonstrations(baseline, dataset)
    loaders: dict[str, Callable[[], Policy]] = {}  # a policy is loaded when it is its turn: one at a time is in memory
    if bundle is not None:
        verified = {"public_key": public_key, "accept_failed_gate": True}
        loaders[bundle.name] = partial(load_policy, bundle=bundle, engine=engine, threads=threads, **verified)
    for name in schemes:
        of_scheme = {"checkpoint": checkpoint, "scheme": name, "truncate_prompts": truncate_prompts}
        loaders[name] = partial(load_policy, engine=engine, threads=threads, **of_scheme)
    out = Output(as_json)
    with out.progress() as on_progress:
        evaluations = {
            name: run_policy(load(), chosen, **told, **how, name=name, on_progress=on_progress)
            for name, load in loaders.items()
        }
        if demonstrations is not None:
            evaluations[REPLAY] = replay(demonstrations, chosen, task=task, name=REPLAY, on_progress=on_progress)
    pairs = {
        (first, second): pair(evaluations[first].rollouts, evaluations[second].rollouts)
        for first, second in combinations(evaluations, 2)
    }
    _show(out, scene, evaluations, pairs, per_seed)
    passed = all(evaluations[name].success_rate >= require for name in loaders)
    out.finish(
        {
            "task": task,
            "seeds": seeds,
            "image_age_ms": image_age,
            "schemes": {name: evaluation.to_dict() for name, evaluation in evaluations.items()},
            "pairs": [{"first": a, "second": b, **pairing.to_dict()} for (a, b), pairing in pairs.items()],
            "episodes": {name: evaluation.rollouts for name, evaluation in evaluations.items()},
            "passed": passed,
        }
    )
    if not passed:
        out.print(f"FAIL: the success rate is below {require:.0%}")
        raise typer.Exit(1)


def _parse_seeds(text: str) -> range:
    from pi0_edge.errors import ConfigError

    first, separator, last = text.partition(":")
    if not separator or not first.isdigit() or not last.isdigit() or int(first) >= int(last):
        raise ConfigError(f"--seeds {text!r}: expected A:B with A < B, such as 0:100")
    return range(int(first), int(last))


def _demonstrations(baseline: str | None, dataset: Path | None) -> Path | None:
    """The dataset to replay; None where no baseline was asked for."""
    from pi0_edge.errors import ConfigError

    if baseline is None:
        return None
    if baseline != REPLAY:
        raise ConfigError(f"--baseline {baseline!r} is not known; expected {REPLAY}")
    if dataset is None:
        raise ConfigError("--baseline replay needs --dataset with demonstrations (`pi0-edge record` makes one)")
    return dataset


def _show(
    out: Output,
    task: SimulatedTask,
    evaluations: dict[str, Evaluation],
    pairs: dict[tuple[str, str], Pairing],
    per_seed: bool,
) -> None:
    if per_seed:
        rollouts = zip(*(evaluation.rollouts for evaluation in evaluations.values()), strict=True)
        rows = [(str(same[0].seed), *(_outcome(one, task.stages) for one in same)) for same in rollouts]
        out.table("episodes", ("seed", *evaluations), rows)
    rows = [(name, *_success(evaluation)) for name, evaluation in evaluations.items()]
    out.table(task.name, ("scheme", "successes", "rate", "95 % interval (Wilson)", "mean time"), rows)
    columns = ("first", "second", "both", "only first", "only second", "neither", "second - first", "p (McNemar)")
    if pairs:
        rows = [(*names, *_difference(pairing)) for names, pairing in pairs.items()]
        out.table("same seeds in pairs, with the 95 % interval of Newcombe", columns, rows)


def _outcome(rollout: Rollout, stages: int) -> str:
    if rollout.success:
        return f"after {rollout.ticks} ticks"
    return f"no (stage {rollout.best_reward:g} of {stages})"


def _success(evaluation: Evaluation) -> tuple[str, str, str, str]:
    from pi0_edge.sim.aloha import CONTROL_HZ

    low, high = evaluation.interval
    ticks = evaluation.mean_ticks_to_success
    time = "-" if ticks is None else f"{ticks / CONTROL_HZ:.2f} s"
    counts = f"{evaluation.successes} of {evaluation.episodes}"
    return counts, f"{evaluation.success_rate:.1%}", f"{low:.1%} to {high:.1%}", time


def _difference(pairing: Pairing) -> tuple[int, int, int, int, str, float]:
    low, high = pairing.interval
    difference = f"{pairing.difference:+.1%} ({low:+.1%} to {high:+.1%})"
    return pairing.both, pairing.only_first, pairing.only_second, pairing.neither, difference, pairing.p_value
