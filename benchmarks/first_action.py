"""From the observation to the first motor command that answers it, without the time of the model.

    python -m benchmarks.first_action [--seconds 60] [--output benchmarks/results] [--page docs/bench/path.md]

An ordinary run plays a policy that answers every observation at once, with the chunk that the shipped policy made for
the first one (scaling of images, tokens and network are the model's and are not done). All else is as on a robot:
messages, bridge, the line at exactly 921,600 baud, the firmware in QEMU with its servo buses. Twice: with the policy
in the process of the run, and behind a policy server on this machine, to which a 640x480 image crosses gRPC unpacked.

A row is a stage of every chunk:

* `to the policy and back`: the observation becomes a message, or an argument, and the chunk comes back;
* `to the bridge`: the chunk becomes a message and crosses gRPC;
* `in the bridge`: checks, splice, counts, until the first byte is handed to the line;
* `line`: until the bridge knows that the first setpoints are in the firmware's ring;
* `observation to ring`: all of these together, which is what the budget of 5 ms is about;
* `next tick`: until the next timer interrupt, where the arm turns towards the first new setpoint. It is inherent in a
  loop of 50 Hz: 10 ms on average where observations come at any time, and more here, since a run observes right after a
  tick, as often as the policy is free then;
* `observation to turn`: both together;
* `servo command`: from an interrupt until the last byte of its goal positions has left on the bus.

A chunk whose head was overtaken by a tick (`later than planned`) turns the arm one tick later. Writes first_action.md
and first_action.json into the folder of `--output`, and the table into the page.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from benchmarks.ways_in_server import KeptPolicy
from firmware_bridge.client import Tick
from firmware_bridge.emulator.emulated_arm import emulated_arm
from firmware_bridge.emulator.processes import start
from pi0_edge.bench.path.measurement import PathMeasurement, PathRequest, measure_path
from pi0_edge.errors import BenchError
from pi0_edge.latency.percentiles import early_stopping_percentile
from pi0_edge.latency.stages import Stage
from pi0_edge.policy import Policy
from pi0_edge.run.events import Answered, Event, Observed
from pi0_edge.run.problems import PreflightError
from pi0_edge.serving.policy_server import serve_policy
from pi0_edge.shipped import shipped_checkpoint

ROOT = Path(__file__).resolve().parents[1]
ROBOT, EMULATED = "aloha_sim", "aloha"
REPLAN_TICKS = 5
"""Between two observations: many chunks in a short time, and none waits for the one before."""

ATTEMPTS = 3
BUDGET_MS = 5.0
PERCENTILES = (50, 95, 99)
TO_RING, TO_TURN = "observation to ring", "observation to turn"
IN_PROCESS, SERVED = "policy in the process of the run", "policy behind a server on this machine"


def kept_policy() -> KeptPolicy:
    """The shipped policy, which computes one chunk and then only repeats it."""
    return KeptPolicy(Policy.load(shipped_checkpoint()))


def serve() -> None:
    """Serves the kept policy until it is stopped, and says where."""
    serve_policy(kept_policy(), "127.0.0.1:0", on_ready=lambda address: print(f"ready: {address}", flush=True))


@contextlib.contextmanager
def served_policy() -> Iterator[str]:
    """The address of the kept policy behind a server in a process of its own."""
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        server = start(stack, Path(folder) / "server.log", "benchmarks.first_action", "--serve")
        yield server.wait_for(r"^ready: (\S+)$")


class Pieces:
    """A listener that keeps how chunks went to the firmware.

    Attributes:
        rest_ms: Of every chunk whose head went ahead, from the head's acceptance to that of its rest.
        together: Chunks of which all setpoints were sent together.
        later: Chunks that entered later than the bridge had planned.
    """

    def __init__(self) -> None:
        self.rest_ms: list[float] = []
        self.together = 0
        self.later = 0

    def on_observed(self, observed: Observed) -> None:
        """Nothing."""

    def on_answered(self, answered: Answered) -> None:
        """Keeps what the bridge says of a chunk."""
        report = answered.report
        if report.head_tick:
            self.rest_ms.append(report.rest_ms)
        self.together += not report.head_steps
        self.later += report.first_tick > report.sent_tick

    def on_tick(self, tick: Tick) -> None:
        """Nothing."""

    def on_event(self, event: Event) -> None:
        """Nothing."""


def stages(measured: PathMeasurement) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of every chunk, [n] for each row of the table."""
    of = measured.samples.stages_ms
    tick_ms = 1e3 / measured.control_hz
    parts = {
        "to the policy and back": measured.transport_ms["to the policy and back"],
        "to the bridge": measured.transport_ms["to the bridge"],
        "in the bridge": of[Stage.SPLICE.value],
        "line": of[Stage.SERIAL.value],
    }
    to_ring = np.sum(list(parts.values()), axis=0)
    turn = of[Stage.TICK.value] - tick_ms  # the stage ends where the first setpoint is reached, a tick after the turn
    return {
        **parts,
        TO_RING: to_ring,
        "next tick": turn,
        TO_TURN: to_ring + turn,
        "servo command": of[Stage.SERVO.value],
    }


def figures(values: NDArray[np.float64]) -> dict[str, float]:
    """Percentiles and the largest value, in milliseconds."""
    found = {f"p{percent}": round(float(np.percentile(values, percent)), 3) for percent in PERCENTILES}
    return {**found, "max": round(float(values.max()), 3)}


def measure(policy: Policy | str, seconds: float) -> dict[str, Any]:
    """One run; what the table and the JSON say of it.

    One that ended early is begun again, twice at most: an emulated board that waits for a processor stops the arm.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return measure_once(policy, seconds)
        except (BenchError, PreflightError) as error:
            sys.stderr.write(f"again: {error}\n")
    return measure_once(policy, seconds)


def measure_once(policy: Policy | str, seconds: float) -> dict[str, Any]:
    """One run.

    Raises:
        BenchError: It ended early.
        PreflightError: It did not begin.
    """
    pieces = Pieces()
    with tempfile.TemporaryDirectory() as folder, emulated_arm(EMULATED, Path(folder), exact_line=True) as arm:
        measured = measure_path(
            PathRequest(ROBOT, policy, bridge=arm, seconds=seconds, replan_ticks=REPLAN_TICKS, listeners=[pieces])
        )
    rows = stages(measured)
    bound = early_stopping_percentile(rows[TO_RING].tolist(), 0.99)
    return {
        "chunks": len(measured.samples),
        "outcomes": dict(measured.outcomes),
        "sent_together": pieces.together,
        "later_than_planned": pieces.later,
        "rest_ms": figures(np.array(pieces.rest_ms)) if pieces.rest_ms else None,
        "missed_ticks": measured.missed_ticks,
        "starved_ticks": measured.starved_ticks,
        "clock_uncertainty_ms": round(float(np.median(measured.uncertainty_ms)), 3),
        "within_budget": round(float((rows[TO_RING] <= BUDGET_MS).mean()), 4),
        "p99_bound_ms": None if bound is None else round(bound, 3),
        "stages_ms": {name: figures(values) for name, values in rows.items()},
    }


def table(ways: Mapping[str, Mapping[str, Any]]) -> str:
    """The stages of both ways, beside each other."""
    names = [*(f"p{percent}" for percent in PERCENTILES), "max"]
    lines = [
        "| ms | " + " | ".join(f"{way}: {names[0]} | {' | '.join(names[1:])}" for way in ways) + " |",
        "|---|" + "---:|" * (len(names) * len(ways)),
    ]
    stage_names = next(iter(ways.values()))["stages_ms"]
    for stage in stage_names:
        cells = [f"{found['stages_ms'][stage][name]:.2f}" for found in ways.values() for name in names]
        shown = f"**{stage}**" if stage in (TO_RING, TO_TURN) else stage
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict(way: str, found: Mapping[str, Any]) -> str:
    """What else there is to say of one way, as an item of a list."""
    p99, bound = found["stages_ms"][TO_RING]["p99"], found["p99_bound_ms"]
    kept = "kept" if p99 <= BUDGET_MS else "**not kept**"
    told = "not enough samples" if bound is None else f"with a risk of 1 %, p99 is at most {bound:.2f} ms"
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(found["outcomes"].items()))
    rest = found["rest_ms"]
    return "\n".join(
        [
            f"* {way}: {TO_RING} within {BUDGET_MS:g} ms in {found['within_budget']:.1%} of {found['chunks']} chunks; "
            f"a p99 of {BUDGET_MS:g} ms is {kept} ({told})",
            f"  * {outcomes}; {found['sent_together']} sent in one piece, {found['later_than_planned']} later than "
            f"planned; {found['starved_ticks']} starved and {found['missed_ticks']} missed ticks",
            "  * the rest of a chunk came "
            + ("–" if rest is None else f"{rest['p50']:.1f} ms after its head (p99 {rest['p99']:.1f} ms)")
            + f"; times of interrupts are known within {found['clock_uncertainty_ms']:.1f} ms",
        ]
    )


def write_page(page: Path, text: str) -> None:
    """Replaces what stands between the marks of a page."""
    marks = r"(<!-- first_action: begin -->\n).*?(<!-- first_action: end -->)"
    page.write_text(re.sub(marks, lambda found: f"{found[1]}{text}\n{found[2]}", page.read_text(), flags=re.DOTALL))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures both ways, and writes what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the two runs (default 60)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "bench" / "path.md")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve()
        return
    load = os.getloadavg()[0]
    ways = {IN_PROCESS: measure(kept_policy(), options.seconds)}
    with served_policy() as address:
        ways[SERVED] = measure(address, options.seconds)
    machine = {**describe_machine(), "load average before": f"{load:.1f}"}
    both = "\n".join([table(ways), "", *(verdict(way, found) for way, found in ways.items())])
    about = "\n".join(f"* {name}: {value}" for name, value in machine.items())
    text = f"`python -m benchmarks.first_action --seconds {options.seconds:g}`\n\n{about}\n\n{both}\n"
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "first_action.md").write_text(text)
    (options.output / "first_action.json").write_text(json.dumps({"machine": machine, "ways": ways}, indent=2) + "\n")
    where = f"{machine['processor']}, {os.cpu_count()} cores, load average {load:.1f} before, {machine['date']}"
    write_page(options.page, f"{where}:\n\n{both}")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
