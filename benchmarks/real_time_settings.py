"""What each real-time setting does for the bridge, measured on this machine under load.

    python -m benchmarks.real_time_settings [--seconds 14] [--turns 2] [--again]

An emulated board and the real bridge as a process of its own, which plays a chunk every fifth of a second, beside a
load of processors, memory and disk. Each setting alone, all of them together, and none, in turns. About five minutes;
what was measured is kept in the .jsonl file, and a run that was cut off goes on there.

* `wake-ups`: lateness of a thread with the same settings at the same time (`pi0-edge bench jitter`), every millisecond;
* `heartbeats`: longest time between two that the bridge's own thread sent, 50 ms apart; after 200 ms the arm stops;
* `chunks`: those that were late or lost, and how many actions were past due when a chunk was entered;
* `setpoints left`: the fewest in the firmware while it played;
* `stops of the arm`: whoever was late. The emulated board and its line are processes of this machine that the load
  holds up as well: a heartbeat that was sent in time may come too late.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from firmware_bridge.bridge.jitter import INTERVAL_US, JitterResult, run_wake_ups, watched_ticks
from firmware_bridge.bridge.thread_settings import ThreadSettings
from firmware_bridge.bridge.wake_ups import command
from firmware_bridge.client import BridgeClient, Tick
from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.errors import BridgeError
from firmware_bridge.link.framing import FrameDecoder
from firmware_bridge.robot import RobotJoints, load_joints
from pi0_edge.latency.percentiles import Latency
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import Pong, State

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ROBOT, HORIZON, CHUNK_EVERY_S = "aloha", 50, 0.2
PRIORITY = 50
LATENCY_LIMIT = Path("/dev/cpu_dma_latency")
LAST_CPU = max(os.sched_getaffinity(0))
OTHER_CPUS = frozenset(os.sched_getaffinity(0)) - {LAST_CPU}

NOT_MEASURED = {
    "PREEMPT_RT kernel": "this machine's kernel is not one, and a container cannot choose it",
    "isolcpus, nohz_full": "arguments of the kernel; `own processor` keeps only the load away, not the kernel's work",
    "clock governor": "this machine does not let the kernel change clocks",
    "interrupts away from the bridge": "a virtual machine without serial, USB or camera interrupts",
    "USB latency timer": "the board is emulated behind a pseudo-terminal; an FTDI adapter adds up to 16 ms by default",
}


@dataclass(frozen=True)
class Row:
    """One way to run the bridge.

    Attributes:
        name: In the table.
        settings: That it is started with.
        may_be_nice: It asks for niceness -10 itself, and gets it.
        may_lock: It locks its memory itself, and may.
        load_cpus: Where the load runs; everywhere where empty.
        awake: A program keeps all processors from idling (PM QoS).
    """

    name: str
    settings: ThreadSettings = field(default_factory=ThreadSettings)
    may_be_nice: bool = False
    may_lock: bool = False
    load_cpus: frozenset[int] = frozenset()
    awake: bool = False

    def start(self, program: Sequence[str]) -> list[str]:
        """The command that starts a program in this way."""
        told = {"settings": self.settings.to_dict(), "may_be_nice": self.may_be_nice, "may_lock": self.may_lock}
        return [sys.executable, "-m", "benchmarks.real_time_start", json.dumps(told), *program]


OWN = frozenset({LAST_CPU})
ROWS = (
    Row("none"),
    Row("niceness -10", may_be_nice=True),
    Row(f"SCHED_FIFO {PRIORITY}", ThreadSettings(priority=PRIORITY)),
    Row("memory locked", may_lock=True),
    Row("own processor", ThreadSettings(cpus=OWN), load_cpus=OTHER_CPUS),
    Row("no idle states", awake=True),
    Row("all together", ThreadSettings(priority=PRIORITY, cpus=OWN), True, True, OTHER_CPUS, True),
)

COMPUTE = "while True: pass"
COPY = "a = bytearray(64 << 20)\nwhile True: b = bytes(a)"
WRITE = """
import os, sys
block = os.urandom(1 << 20)
with open(sys.argv[1], "wb", buffering=0) as file:
    while True:
        file.seek(0)
        for _ in range(16):
            file.write(block)
        os.fsync(file.fileno())
"""


def load_commands(folder: Path) -> tuple[str, list[list[str]]]:
    """What the load is called, and the processes of it."""
    count = os.cpu_count() or 1
    if program := shutil.which("stress-ng"):
        options = f"--cpu {count} --vm 1 --vm-bytes 256M --hdd 1 --hdd-bytes 64M".split()
        return f"stress-ng {' '.join(options)}", [[program, "--quiet", *options, "--temp-path", str(folder)]]
    python = [sys.executable, "-S", "-c"]
    processes = [[*python, COMPUTE]] * count + [[*python, COPY], [*python, WRITE, str(folder / "written")]]
    return f"{count} processes that compute, one that copies 64 MiB, one that writes 16 MiB and syncs", processes


@contextlib.contextmanager
def load(folder: Path, cpus: frozenset[int]) -> Iterator[None]:
    """The load, while the context lasts."""
    usual = Row("load", ThreadSettings(cpus=cpus))
    processes = [subprocess.Popen(usual.start(argv), cwd=ROOT) for argv in load_commands(folder)[1]]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


@contextlib.contextmanager
def kept_awake(wanted: bool) -> Iterator[None]:
    """No processor idles deeper than it wakes up at once, while the context lasts."""
    if not wanted:
        yield
        return
    with LATENCY_LIMIT.open("wb", buffering=0) as limit:
        limit.write((0).to_bytes(4, "little"))
        yield


@contextlib.contextmanager
def running_bridge(row: Row, port: str, log: Path) -> Iterator[str]:
    """A bridge of this row; its address."""
    program = [sys.executable, "-m", "firmware_bridge", "--port", port, "--listen", "127.0.0.1:0", "--robot", ROBOT]
    with log.open("wb") as sink:
        process = subprocess.Popen(row.start(program), stderr=sink, cwd=ROOT)
    try:
        until = time.monotonic() + 30.0
        while "listening on " not in (said := log.read_text()):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the bridge of {row.name!r} did not start: {said}")
            time.sleep(0.05)
        yield said.partition("listening on ")[2].partition(",")[0]
    finally:
        process.terminate()
        process.wait()


@dataclass
class Played:
    """What came of the chunks."""

    reports: list[ChunkReport] = field(default_factory=list[ChunkReport])
    stops: Counter[str] = field(default_factory=Counter[str])


def play(address: str, robot: RobotJoints, ending: threading.Event, played: Played) -> None:
    """Keeps the arm at home by a chunk every fifth of a second; arms again after each stop."""
    with BridgeClient(address, "benchmark") as client:
        client.wait_ready(20.0)
        while not ending.is_set():
            try:
                client.clear()
                client.arm(robot.names)
                with client.play() as stream:
                    while not ending.wait(CHUNK_EVERY_S):
                        stream.send(np.tile(robot.home, (HORIZON, 1)), client.status().tick)
                        if (report := stream.next_report(2.0)) is not None:
                            played.reports.append(report)
                client.disarm("the time is over")
            except BridgeError as error:
                played.stops[str(error).split(";")[0][:80]] += 1
                ending.wait(0.2)


def heartbeat_gaps_ms(recorded: bytes) -> list[float]:
    """Times between heartbeats that follow each other, by the bridge's clock, as the firmware sent them back."""
    frames = FrameDecoder().feed(recorded)
    pongs = [Pong.unpack(frame.payload) for frame in frames if frame.type == Pong.ID]
    return [
        (after.host_time_us - before.host_time_us) * 1e-3 / (after.ping_id - before.ping_id)
        for before, after in itertools.pairwise(pongs)
        if after.ping_id == before.ping_id + 1
    ]


def fewest_setpoints(ticks: Sequence[Tick]) -> int | None:
    """In the firmware while it played, from a second after the begin."""
    levels = [tick.ring_level for tick in ticks[50:] if tick.state == State.RUNNING]
    return min(levels, default=None)


def rounded(histogram: Mapping[int, int]) -> dict[int, int]:
    """The same with each lateness cut to seven leading bits, at most 1.6 % less, so that the file stays small."""
    counts = Counter[int]()
    for late, count in histogram.items():
        shift = max(0, late.bit_length() - 7)
        counts[late >> shift << shift] += count
    return dict(counts)


def measure(row: Row, board: EmulatedBoard, record: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """One run of a row."""
    robot, ending, played = load_joints(ROBOT), threading.Event(), Played()
    with running_bridge(row, board.port, folder / "bridge.log") as address, BridgeClient(address, "watcher") as watcher:
        watcher.wait_ready(20.0)
        with kept_awake(row.awake), load(folder, row.load_cpus):
            player = threading.Thread(target=play, args=(address, robot, ending, played))
            player.start()
            time.sleep(1.0)
            begin = record.stat().st_size
            with watched_ticks(watcher) as ticks:
                wakes = row.start(command(round(seconds * 1e6 / INTERVAL_US), INTERVAL_US, ThreadSettings()))
                had, lateness_ns = run_wake_ups(wakes)
            busy = os.getloadavg()[0]
            ending.set()
            player.join()
    gaps = heartbeat_gaps_ms(record.read_bytes()[begin:])
    outcomes = Counter(ChunkReport.Outcome.Name(report.outcome) for report in played.reports)
    return {
        "setting": row.name,
        "had": str(had),
        "load": round(busy, 2),
        "seconds": seconds,
        "histogram_us": rounded(JitterResult(INTERVAL_US, had, lateness_ns).histogram),
        "latest_us": int(lateness_ns.max()) // 1000,
        "heartbeats": len(gaps),
        "longest_gap_ms": round(max(gaps), 3),
        "chunks": dict(outcomes),
        "skipped": sorted(report.skipped for report in played.reports if report.outcome == ChunkReport.ACCEPTED),
        "fewest_setpoints": fewest_setpoints(ticks),
        "stops": dict(played.stops),
    }


def samples_of(path: Path) -> list[dict[str, Any]]:
    """What was measured before."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def cells(samples: Sequence[dict[str, Any]]) -> list[str]:
    """A row of the table, from all runs of a setting."""
    if not samples:
        return ["0", *["–"] * 9]
    lateness = [int(us) * 1e-3 for one in samples for us, count in one["histogram_us"].items() for _ in range(count)]
    figures = Latency.of(lateness)
    in_us = [f"{1e3 * value:.0f}" if value is not None else "not enough" for value in (figures.p50_ms, figures.p99_ms)]
    tail = "not enough" if figures.p999_ms is None else f"{1e3 * figures.p999_ms:.0f}"
    chunks = Counter[str]()
    stops = sum(count for one in samples for why, count in one["stops"].items() if "the arm became" in why)
    for one in samples:
        chunks.update(one["chunks"])
    skipped = [count for one in samples for count in one["skipped"]]
    levels = [one["fewest_setpoints"] for one in samples if one["fewest_setpoints"] is not None]
    return [
        str(figures.count),
        *in_us,
        tail,
        str(max(one["latest_us"] for one in samples)),
        f"{max(one['longest_gap_ms'] for one in samples):.1f}",
        f"{sum(chunks.values()) - chunks['ACCEPTED']} of {sum(chunks.values())}",
        f"{np.median(skipped):.0f} / {max(skipped)}" if skipped else "–",
        str(min(levels, default="–")),
        str(stops),
    ]


HEADER = (
    "setting",
    "wake-ups",
    "p50 µs",
    "p99 µs",
    "p99.9 µs",
    "max µs",
    "longest time between heartbeats, ms",
    "chunks late, lost or refused",
    "actions past due, median / most",
    "fewest setpoints left",
    "stops of the arm",
)


def table(samples: Sequence[dict[str, Any]], machine: dict[str, str], call: str) -> str:
    """The page of results."""
    loads = [one["load"] for one in samples]
    lines = [f"`{call}`", "", *(f"* {name}: {value}" for name, value in machine.items())]
    if loads:
        lines.append(f"* load average: {min(loads):.1f} to {max(loads):.1f}; the machine was shared with other work")
    lines += ["", f"| {' | '.join(HEADER)} |", f"|---|{'---:|' * (len(HEADER) - 1)}"]
    for row in ROWS:
        found = [one for one in samples if one["setting"] == row.name]
        lines.append(f"| {' | '.join([row.name, *cells(found)])} |")
    lines += [
        "",
        "Wake-ups and heartbeats are the bridge's own. Chunks, setpoints and stops are also those of the emulated",
    ]
    lines += ["board, of its line and of the client, which are processes beside the same load."]
    lines += ["", "Not measured, because this machine cannot have it:", ""]
    return "\n".join([*lines, *(f"* {name}: {why}" for name, why in NOT_MEASURED.items())]) + "\n"


def possible(row: Row) -> str:
    """Why a row cannot be measured here; empty where it can."""
    if row.awake and not os.access(LATENCY_LIMIT, os.W_OK):
        return f"{LATENCY_LIMIT} may not be written by this user"
    if row.settings.cpus and not OTHER_CPUS:
        return "there is one processor"
    ran = subprocess.run(row.start([shutil.which("true") or "true"]), cwd=ROOT, capture_output=True, check=False)
    return "" if ran.returncode == 0 else ran.stderr.decode().strip().splitlines()[-1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is missing, and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=14.0, help="of each run")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="forget what was measured before")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (default: benchmarks/results)")
    options = parser.parse_args(arguments)
    kept = options.output / "real_time_settings.jsonl"
    if options.again:
        kept.unlink(missing_ok=True)
    rows = [row for row in ROWS if not (why := possible(row)) or print(f"not measured: {row.name}: {why}")]
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -15)  # the client's lateness is not the subject
    with tempfile.TemporaryDirectory() as name:
        folder, record = Path(name), Path(name) / "record"
        with EmulatedBoard(cpu=min(os.sched_getaffinity(0)), record=record) as board:
            for turn in range(options.turns):
                for place in range(len(rows)):
                    row = rows[(place + turn) % len(rows)]
                    done = sum(one["setting"] == row.name for one in samples_of(kept))
                    if done > turn:
                        continue
                    sample = measure(row, board, record, folder, options.seconds)
                    with kept.open("a") as file:
                        file.write(json.dumps(sample) + "\n")
                    print(f"{row.name}: {' | '.join(cells([sample]))}; {sample['had']}", flush=True)
    call = f"python -m benchmarks.real_time_settings --seconds {options.seconds:g} --turns {options.turns}"
    machine = {**describe_machine(), "kernel": os.uname().release, "load beside it": load_commands(Path())[0]}
    (options.output / "real_time_settings.md").write_text(table(samples_of(kept), machine, call))


if __name__ == "__main__":
    main()
