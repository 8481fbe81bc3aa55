"""Fault, what the robot runs afterwards, and seconds until it answers again: a flashed robot in a container.

    python -m benchmarks.flash_faults [--times 20] [--only NAME] [--resume]

Needs Linux and root. Real systemd, sshd, installer and policy server; only the policy is small. Every sample lets one
fault happen, waits until the right release is served, and compares slots, trial and the list of bad releases with what
they must be: anything else is `wrong`, and the command ends with 1. The robot answers when its policy server is ready
in the words of systemd, which it says after a first chunk of its own.

Samples are kept as they come in benchmarks/results/flash_faults.jsonl, so that --resume goes on; the table is
benchmarks/results/flash_faults.md. Two runs with --resume and other faults each may go on at the same time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.flash_fault_cases import CASES, TRIAL_END_S, Case
from benchmarks.flash_fault_robot import TRIAL_S, Client, FaultRobot, WrongError, why_no_container
from benchmarks.machine import describe_machine

RESULTS = Path(__file__).parent / "results"
SAMPLES, TABLE = RESULTS / "flash_faults.jsonl", RESULTS / "flash_faults.md"


class Runner:
    """Takes samples, on one robot as long as it can be brought back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._robot: FaultRobot | None = None
        self._made = 0

    def sample(self, case: Case, client: Client | None) -> dict[str, Any]:
        """One line of the file; says `wrong` and why where the robot did another thing."""
        robot = self.robot()
        begun = time.time()
        line: dict[str, Any] = {"fault": case.name, "at": round(begun), "load": round(os.getloadavg()[0], 1)}
        try:
            found = case.sample(robot, client)
            line |= {"runs": found.sequence, "seconds": _rounded(found.seconds), "gap_s": _rounded(found.gap_s)}
        except (WrongError, AssertionError) as error:
            line["wrong"] = str(error)
        line["took_s"] = round(time.time() - begun, 1)
        return line

    def robot(self) -> FaultRobot:
        """One that was reset."""
        if self._robot is not None:
            try:
                self._robot.reset()
                return self._robot
            except AssertionError as error:
                _say(f"the robot cannot be brought back, another one takes its place: {error}")
                self.end()
        self._made += 1
        _say("a robot is made, and flashed three times")
        folder = self._folder / str(self._made)
        folder.mkdir()
        self._robot = FaultRobot(folder)
        return self._robot

    def measure(self, case: Case, times: int) -> None:
        """Takes samples of one fault until there are enough, and keeps each."""
        client = Client(self.robot().container) if case.asked and times > 0 else None
        for number in range(times):
            line = self.sample(case, client)
            with SAMPLES.open("a") as file:
                file.write(json.dumps(line) + "\n")
            told = line.get("wrong") or f"release {line['runs']}, {line['seconds']} s"
            _say(f"{case.name:18} {number + 1:3} of {times}: {told} (sample {line['took_s']} s, load {line['load']})")
        if client is not None:
            client.end()

    def end(self) -> None:
        """Ends the robot."""
        if self._robot is not None:
            self._robot.container.drop()
            self._robot = None


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The samples of the file; none where it is missing. A line that was cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("}\n")]


def table(samples: Sequence[Mapping[str, Any]], machine: Mapping[str, str], command: str) -> str:
    """The table as Markdown, with what it was made by."""
    loads = [float(sample["load"]) for sample in samples]
    lines = [
        f"`{command}`",
        "",
        *(f"* {name}: {value}" for name, value in machine.items()),
        f"* load: {statistics.median(loads):.1f} in the median, {min(loads):.1f} to {max(loads):.1f} over the samples"
        if loads
        else "* load: no samples",
        f"* settings: watchdog 2 s (10 s on a robot), trial {TRIAL_S:g} s (10 s), end of a trial without its installer "
        f"after {TRIAL_END_S} s (600 s), budget of a chunk 2 s; a policy that answers in milliseconds",
        "",
        "| fault | what the robot runs afterwards | seconds count from | n | median s | worst s | wrong |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for case in CASES:
        own = [sample for sample in samples if sample["fault"] == case.name]
        right = [sample for sample in own if "wrong" not in sample]
        median, worst = _figures(right)
        words = (case.fault, case.runs, case.since, str(len(own)), median, worst, str(len(own) - len(right)))
        lines.append(f"| {' | '.join(words)} |")
    gaps = [float(sample["gap_s"]) for sample in samples if sample.get("gap_s") is not None]
    if gaps:
        text = (
            "Where it says 0 the same process served before, meanwhile and after, and a client on the robot asked for "
        )
        lines += ["", f"{text}chunks all the time: its longest wait between two answers was {max(gaps):.2f} s."]
    return "\n".join(lines) + "\n"


def _figures(samples: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    seconds = [float(sample["seconds"]) for sample in samples if sample["seconds"] is not None]
    if not seconds:
        return "–", "–"
    if not any(seconds):
        return "0", "0"
    return f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and writes the table; returns 1 where a sample was wrong."""
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(prog="flash_faults", description="What a robot runs after a fault, and how soon.")
    parser.add_argument("--times", type=int, default=20, help="how often each fault happens (default 20)")
    parser.add_argument("--only", action="append", choices=names, help="this fault alone; may be given several times")
    parser.add_argument(
        "--resume", action="store_true", help="keep the samples of an earlier run, take what is missing"
    )
    options = parser.parse_args(arguments)
    if (reason := why_no_container()) is not None:
        sys.exit(reason)
    chosen = [case for case in CASES if not options.only or case.name in options.only]
    kept = read_samples(SAMPLES)
    if not options.resume:
        kept = [sample for sample in kept if sample["fault"] not in {case.name for case in chosen}]
        SAMPLES.write_text("".join(json.dumps(sample) + "\n" for sample in kept))
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Path(folder))
        try:
            for case in chosen:
                runner.measure(case, options.times - sum(sample["fault"] == case.name for sample in kept))
                command = f"python -m benchmarks.flash_faults --times {options.times}"
                TABLE.write_text(table(read_samples(SAMPLES), describe_machine(), command))
        finally:
            runner.end()
    text = TABLE.read_text()
    _say(text)
    return 1 if any("wrong" in sample for sample in read_samples(SAMPLES)) else 0


if __name__ == "__main__":
    sys.exit(main())
