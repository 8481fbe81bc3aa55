"""The schemes for Orin on the shipped policy: the gate's verdict, the bundle's size, success and time to success.

    python -m benchmarks.orin_schemes [--episodes 200] [--scheme NAME ...] [--folder build/orin_schemes]

For each scheme `pi0-edge quantize` with all defaults writes its report to benchmarks/results/gates and a bundle to
`--folder`. Then fp32 and every bundle run the same simulated episodes, seeds 0 to N - 1, which training never saw:
scene and noise of a seed are the same for all, so that they are compared in pairs. A bundle that failed the gate runs
too, in the simulation only.

Gates and episodes are kept as they come in `--output` (.jsonl); what is there is not run again, so that an interrupted
run goes on and more episodes can be added later. The table of all schemes is written beside it (.md). Verdicts
belong to the code that made them: delete a scheme's lines, or the file, after a change of the rounding.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.kept import KeptLines
from benchmarks.machine import describe_machine
from pi0_edge.evaluation.rollout import policy_controller, prompt_of, roll_out, task_of
from pi0_edge.evaluation.statistics import Evaluation, Rollout, pair
from pi0_edge.policy import Policy
from pi0_edge.ptq.pipeline import quantize
from pi0_edge.quant import find_scheme
from pi0_edge.shipped import shipped_checkpoint
from pi0_edge.sim.aloha import CONTROL_HZ

RESULTS = Path(__file__).resolve().parent / "results"
REFERENCE = "fp32"
EXECUTED = 25
"""Actions of a chunk that are executed before the next one, as in `pi0-edge evaluate`."""
SCHEMES = ("orin", "orin-vision8", "orin-int8", "orin-expert4", "orin-prefix4")
HEADER = (
    "scheme",
    "verdict",
    "whole chunk: mean",
    "worst",
    "executed part: mean",
    "worst",
    "bundle",
    "success",
    "against fp32, paired",
    "time to success, both succeed",
    "against fp32",
)


class Kept(KeptLines):
    """Lines of a .jsonl file, each a gate or an episode of a scheme."""

    def gate(self, scheme: str) -> dict[str, Any] | None:
        """What the gate of a scheme found."""
        return next((line for line in self.lines if line["scheme"] == scheme and "passed" in line), None)

    def rollouts(self, scheme: str) -> dict[int, Rollout]:
        """The episodes of a scheme by seed."""
        found = [line for line in self.lines if line["scheme"] == scheme and "seed" in line]
        return {
            line["seed"]: Rollout(line["seed"], line["success"], line["ticks"], line["best_reward"]) for line in found
        }


def judge(kept: Kept, scheme: str, bundle: Path, reports: Path, sources: dict[str, Any]) -> None:
    """Quantizes and judges with all defaults, unless that has been done, and leaves bundle and report.

    Args:
        kept: Takes the verdict.
        scheme: Its name.
        bundle: Folder of the bundle.
        reports: Folder of the reports.
        sources: Arguments of `quantize` that say what is quantized and on which frames.
    """
    if kept.gate(scheme) is not None and bundle.is_dir():
        return
    quantized = quantize(scheme=scheme, **sources)
    quantized.write_report(reports / f"{scheme}.html")
    quantized.write_bundle(bundle, replace=True)
    gate = quantized.gate
    if kept.gate(scheme) is None:
        cosines = (gate.cosine_whole, gate.cosine_executed)
        kept.add(
            {
                "scheme": scheme,
                "passed": gate.verdict.passed,
                "chunks": len(gate.cosine_whole),
                "mean": [sum(values) / len(values) for values in cosines],
                "worst": [min(values) for values in cosines],
                "weights_bytes": sum(file.stat().st_size for file in bundle.glob("*.safetensors")),
            }
        )


def run_episodes(kept: Kept, scheme: str, policy: Policy, seeds: Iterable[int]) -> None:
    """Runs the episodes that are missing, and keeps each as soon as it has ended."""
    missing = [seed for seed in seeds if seed not in kept.rollouts(scheme)]
    task = task_of(policy)
    env = task.environment()
    try:
        for seed in missing:
            controller = policy_controller(policy, prompt_of(policy, task), EXECUTED, seed)
            rollout = roll_out(env, controller, seed, task.max_ticks)
            found = {"success": rollout.success, "ticks": rollout.ticks, "best_reward": rollout.best_reward}
            kept.add({"scheme": scheme, "seed": seed, **found})
    finally:
        env.close()


def row(kept: Kept, scheme: str) -> list[str]:
    """A row of the table, with a dash where nothing was measured."""
    gate, cells = kept.gate(scheme), [f"`{scheme}`"]
    if gate is None:
        cells += ["reference" if scheme == REFERENCE else "–", *["–"] * 5]
    else:
        cosines = (gate["mean"][0], gate["worst"][0], gate["mean"][1], gate["worst"][1])
        cells += ["passed" if gate["passed"] else "**failed**", *(f"{cosine:.6f}" for cosine in cosines)]
        cells.append(f"{gate['weights_bytes'] / 1e6:.2f} MB")
    own, reference = kept.rollouts(scheme), kept.rollouts(REFERENCE)
    if not own:
        return cells + ["–"] * 4
    evaluation = Evaluation(tuple(own.values()))
    cells.append(f"{evaluation.successes} of {evaluation.episodes}")
    shared = sorted(own.keys() & reference.keys())
    if scheme == REFERENCE or not shared:
        return [*cells, "–", _seconds(evaluation.mean_ticks_to_success), "–"]
    pairing = pair([reference[seed] for seed in shared], [own[seed] for seed in shared])
    low, high = pairing.interval
    cells.append(f"{100 * pairing.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) points")
    both = [seed for seed in shared if own[seed].success and reference[seed].success]
    time = _seconds(sum(own[seed].ticks for seed in both) / len(both)) if both else "–"
    return [*cells, time, _later([own[seed].ticks - reference[seed].ticks for seed in both])]


def table(kept: Kept, schemes: Sequence[str], machine: dict[str, str], command: str) -> str:
    """The results as Markdown."""
    lines = [
        "# The schemes for Orin on the shipped policy",
        "",
        f"`{command}`; intervals are of 95 %: of paired successes by Newcombe, of paired times by their mean.",
        "",
        *(f"* {name}: {value}" for name, value in machine.items()),
        "",
        f"| {' | '.join(HEADER)} |",
        f"|{'---|' * len(HEADER)}",
        *(f"| {' | '.join(row(kept, scheme))} |" for scheme in (REFERENCE, *schemes)),
    ]
    return "\n".join(lines) + "\n"


def _seconds(ticks: float | None) -> str:
    return "–" if ticks is None else f"{ticks / CONTROL_HZ:.3f} s"


def _later(ticks: Sequence[float]) -> str:
    """The mean, and 1.96 times its standard error, which fewer than two do not have."""
    if len(ticks) < 2:
        return "–"
    mean = sum(ticks) / len(ticks)
    variance = sum((one - mean) ** 2 for one in ticks) / (len(ticks) - 1)
    half = 1.96 * (variance / len(ticks)) ** 0.5
    return f"{mean / CONTROL_HZ:+.3f} ± {half / CONTROL_HZ:.3f} s"


def listed(kept: Kept, chosen: Sequence[str]) -> list[str]:
    """Schemes of the table: those of this comparison, those that were run before, and those chosen now."""
    before = (line["scheme"] for line in kept.lines if line["scheme"] != REFERENCE)
    return list(dict.fromkeys((*SCHEMES, *before, *chosen)))


def command_of(episodes: int, chosen: Sequence[str]) -> str:
    """What was asked for, as a command."""
    words = [f"python -m benchmarks.orin_schemes --episodes {episodes}", *(f"--scheme {name}" for name in chosen)]
    return " ".join(words)


def main() -> None:
    """Runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description="Gate, success and time to success of the schemes for Orin.")
    parser.add_argument("--episodes", type=int, default=200, help="of each policy, on seeds 0 to N - 1")
    parser.add_argument("--scheme", action="append", help="run this scheme alone; may be given several times")
    parser.add_argument("--folder", type=Path, default=Path("build/orin_schemes"), help="of the bundles")
    parser.add_argument("--output", type=Path, default=RESULTS / "orin_schemes.jsonl")
    options = parser.parse_args()
    schemes = options.scheme or list(SCHEMES)
    for scheme in schemes:
        find_scheme(scheme)
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    kept, seeds = Kept(options.output), range(options.episodes)
    run_episodes(kept, REFERENCE, Policy.load(shipped_checkpoint(), "reference"), seeds)
    for scheme in schemes:
        bundle = options.folder / scheme
        judge(kept, scheme, bundle, RESULTS / "gates", {"checkpoint": shipped_checkpoint()})
        run_episodes(kept, scheme, Policy.from_bundle(bundle, "cpu", accept_failed_gate=True), seeds)
    command = command_of(options.episodes, options.scheme or ())
    text = table(kept, listed(kept, schemes), describe_machine(), command)
    options.output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
