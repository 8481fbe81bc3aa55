"""Runs the demo from the first process to the last plot."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from firmware_bridge.emulator.child_process import stop_child
from pi0_edge.demo.plots import plot_film, plot_joints
from pi0_edge.demo.policy_choice import PolicyChoice
from pi0_edge.demo.run_record import RunRecord
from pi0_edge.demo.scheme_accuracy import scheme_accuracy
from pi0_edge.demo.summary import DemoSummary, summarize
from pi0_edge.demo.system import REPLAN_TICKS, System, running_system, start_robot
from pi0_edge.errors import EngineError
from pi0_edge.sim.aloha import CONTROL_HZ, SimulatedAloha

ARM = SimulatedAloha.arm_joints()


def run_demo(
    output: Path,
    episodes: int,
    first_seed: int,
    choice: PolicyChoice,
    splice: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> DemoSummary:
    """Plays episodes in closed loop through the firmware and writes record, plots and summary.json to `output`.

    Args:
        output: Folder of this run.
        episodes: How many episodes.
        first_seed: Seed of the first one; the following ones count up.
        choice: What the policy server loads.
        splice: How a chunk enters, see `firmware_bridge.splice.client_splice`; what fits the policy where None.
        say: Told what happens, one line at a time.

    Raises:
        BundleError: If a bundle is refused.
        BridgeError: If emulator, firmware or link fail.
        EngineError: If a process does not start or dies.
    """
    record = record_run(output, episodes, first_seed, choice, splice, say=say)
    say("comparing it with fp32 on what it saw")
    summary = summarize(record, scheme_accuracy(choice, record, ARM), CONTROL_HZ, ARM, REPLAN_TICKS)
    plot_film(record, output / "episode.png")
    plot_joints(record, output / "joints.png")
    (output / "summary.json").write_text(json.dumps(asdict(summary), indent=2) + "\n")
    return summary


def record_run(
    output: Path,
    episodes: int,
    first_seed: int,
    choice: PolicyChoice,
    splice: str | None = None,
    replan_ticks: int = REPLAN_TICKS,
    say: Callable[[str], None] = lambda line: None,
) -> RunRecord:
    """Plays episodes as `run_demo` does, and writes no more than logs and record.

    Args:
        output: Folder of this run.
        episodes: How many episodes.
        first_seed: Seed of the first one; the following ones count up.
        choice: What the policy server loads.
        splice: How a chunk enters; what fits the policy where None.
        replan_ticks: Ticks between two observations, where the plan does not end before.
        say: Told what happens, one line at a time.

    Raises:
        BundleError: If a bundle is refused.
        BridgeError: If emulator, firmware or link fail.
        EngineError: If a process does not start or dies.
    """
    choice.check()
    output.mkdir(parents=True, exist_ok=True)
    say("starting firmware (QEMU), bridge and policy server")
    with running_system(output / "logs", choice) as system:
        say(f"policy server on {system.policy}, bridge on {system.bridge}")
        record = output / "record.npz"
        robot = start_robot(system, first_seed, episodes, splice or choice.splice, record, replan_ticks)
        _follow(robot, system, episodes, say)
    return RunRecord.load(record)


def _follow(robot: subprocess.Popen[bytes], system: System, episodes: int, say: Callable[[str], None]) -> None:
    try:
        for line in robot.stdout or ():
            event = json.loads(line)
            if "error" in event:
                raise EngineError(f"the simulated robot gave up: {event['error']}; logs are in {system.log}")
            outcome = "cube transferred" if event["success"] else "not transferred"
            say(f"episode {event['episode'] + 1} of {episodes} (seed {event['seed']}): {outcome}")
        if robot.wait() != 0:
            raise EngineError(f"the simulated robot ended with {robot.returncode}; see {system.log / 'robot.log'}")
    finally:
        stop_child(robot)
