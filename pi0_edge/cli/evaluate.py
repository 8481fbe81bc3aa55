"""`pi0-edge evaluate`: how often a policy succeeds in the simulated cube transfer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pi0_edge.cli.options import (
    BundleOption,
    CheckpointOption,
    EngineOption,
    JsonOption,
    PublicKeyOption,
    ThreadsOption,
)
from pi0_edge.cli.output import Output

if TYPE_CHECKING:
    from pi0_edge.evaluation.rollout import Rollout
    from pi0_edge.policy import Policy

    Player = Callable[[range], Iterator[Rollout]]

REPLAY = "replay"
DEFAULT_SCHEME = "int8-w8a8"


def evaluate(
    checkpoint: CheckpointOption = None,
    bundle: BundleOption = None,
    scheme: Annotated[list[str] | None, typer.Option(help="Repeat it to compare schemes on the same seeds.")] = None,
    engine: EngineOption = "cpu",
    seeds: Annotated[str, typer.Option(help="A:B plays seeds A to B-1; training never saw 0 to 999.")] = "0:100",
    execute: Annotated[int, typer.Option(min=1, help="Actions executed before the next chunk.")] = 25,
    prompt: Annotated[str, typer.Option(help="What the policy is told.")] = "Transfer cube",
    baseline: Annotated[str | None, typer.Option(help="`replay`: also replay demonstrations open-loop.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="Demonstrations for the baseline.")] = None,
    require: Annotated[float, typer.Option(min=0, max=1, help="Exit with 1 below this success rate.")] = 0.0,
    public_key: PublicKeyOption = None,
    per_seed: Annotated[bool, typer.Option("--per-seed", help="Also list every episode.")] = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count successes in the simulation, with a 95 % interval.

    Several schemes, or a bundle and schemes, play the same seeds and are compared in pairs. A bundle may be played
    whatever its accuracy gate said: this is how to find out what that means.
    """
    from pi0_edge.cli.loading import load_policy, load_scheme
    from pi0_edge.engine import check_engine

    schemes = scheme or ([] if bundle is not None else [DEFAULT_SCHEME])
    for name in schemes:
        check_engine(engine, load_scheme(name))
    chosen = _parse_seeds(seeds)
    speak = Output(as_json)
    loaders: dict[str, Callable[[], Policy]] = {}
    if bundle is not None:
        from_bundle = partial(load_policy, bundle=bundle, public_key=public_key, accept_failed_gate=True)
        loaders[bundle.name] = partial(from_bundle, None, engine, threads=threads)
    loaders |= {name: partial(load_policy, checkpoint, engine, name, threads=threads) for name in schemes}
    players = {name: _policy_player(load, prompt, execute) for name, load in loaders.items()}
    if baseline is not None:
        players[REPLAY] = _replay_player(baseline, dataset)
    results = {name: _play(speak, name, play, chosen) for name, play in players.items()}
    summaries = {name: _summary(rollouts) for name, rollouts in results.items()}
    _show(speak, results, summaries, per_seed)
    pairs = _pairs(speak, results)
    passed = all(summaries[name]["success_rate"] >= require for name in loaders)
    episodes = {name: [vars(rollout) for rollout in rollouts] for name, rollouts in results.items()}
    speak.finish({"seeds": seeds, "schemes": summaries, "pairs": pairs, "episodes": episodes, "passed": passed})
    if not passed:
        speak.say(f"FAIL: the success rate is below {require:.0%}")
        raise typer.Exit(1)


def _parse_seeds(text: str) -> range:
    from pi0_edge.errors import ConfigError

    first, separator, last = text.partition(":")
    if not separator or not first.isdigit() or not last.isdigit() or int(first) >= int(last):
        raise ConfigError(f"--seeds {text!r}: expected A:B with A < B, such as 0:100")
    return range(int(first), int(last))


def _policy_player(load: Callable[[], Policy], prompt: str, execute: int) -> Player:
    """Plays a policy that is loaded when it is its turn, so that one at a time is in memory."""
    from pi0_edge.evaluation.rollout import evaluate as play

    return lambda seeds: play(load(), prompt, seeds, execute)


def _replay_player(baseline: str, dataset: Path | None) -> Player:
    from pi0_edge.errors import ConfigError
    from pi0_edge.evaluation.rollout import replay

    if baseline != REPLAY:
        raise ConfigError(f"--baseline {baseline!r} is not known; expected {REPLAY}")
    if dataset is None:
        raise ConfigError("--baseline replay needs --dataset with demonstrations (`pi0-edge record` makes one)")
    return lambda seeds: replay(dataset, seeds)


def _play(speak: Output, name: str, play: Player, seeds: range) -> list[Rollout]:
    rollouts: list[Rollout] = []
    with speak.progress() as progress:
        task = progress.add_task(name, total=len(seeds))
        for rollout in play(seeds):
            rollouts.append(rollout)
            successes = sum(r.success for r in rollouts)
            progress.update(task, advance=1, description=f"{name}: {successes} of {len(rollouts)} succeed")
    return rollouts


def _summary(rollouts: list[Rollout]) -> dict[str, Any]:
    from pi0_edge.evaluation.rollout import wilson_interval

    successes = [rollout for rollout in rollouts if rollout.success]
    low, high = wilson_interval(len(successes), len(rollouts))
    return {
        "episodes": len(rollouts),
        "successes": len(successes),
        "success_rate": len(successes) / len(rollouts),
        "interval_95": [low, high],
        "mean_ticks_to_success": sum(r.ticks for r in successes) / len(successes) if successes else None,
    }


def _show(
    speak: Output, results: dict[str, list[Rollout]], summaries: dict[str, dict[str, Any]], per_seed: bool
) -> None:
    if per_seed:
        rows = [(str(same[0].seed), *map(_outcome, same)) for same in zip(*results.values(), strict=True)]
        speak.table("episodes", ("seed", *results), rows)
    rows = [(name, *_figures(summary)) for name, summary in summaries.items()]
    speak.table("cube transfer", ("scheme", "successes", "rate", "95 % interval (Wilson)", "mean time"), rows)


def _outcome(rollout: Rollout) -> str:
    if rollout.success:
        return f"after {rollout.ticks} ticks"
    return f"no (stage {rollout.best_reward:g} of 4)"


def _figures(summary: dict[str, Any]) -> tuple[str, str, str, str]:
    from pi0_edge.sim.aloha_transfer_cube import CONTROL_HZ

    low, high = summary["interval_95"]
    ticks = summary["mean_ticks_to_success"]
    counts = f"{summary['successes']} of {summary['episodes']}"
    time = "-" if ticks is None else f"{ticks / CONTROL_HZ:.2f} s"
    return counts, f"{summary['success_rate']:.1%}", f"{low:.1%} to {high:.1%}", time


def _pairs(speak: Output, results: dict[str, list[Rollout]]) -> list[dict[str, Any]]:
    from pi0_edge.evaluation.pairing import pair

    pairs = []
    for first, second in combinations(results, 2):
        pairs.append({"first": first, "second": second, **pair(results[first], results[second]).to_dict()})
    columns = ("first", "second", "both", "only first", "only second", "neither", "second - first", "p (McNemar)")
    rows = []
    for found in pairs:
        low, high = found["interval_95"]
        difference = f"{found['difference']:+.1%} ({low:+.1%} to {high:+.1%})"
        rows.append([*list(found.values())[:6], difference, found["p_value"]])
    if rows:
        speak.table("same seeds in pairs, with the 95 % interval of Newcombe", columns, rows)
    return pairs
