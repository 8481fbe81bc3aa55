"""What each way into the policy server adds over gRPC on loopback, in one table.

    python -m benchmarks.ways_in BUNDLE [--turns 30] [--block 20] [--ways grpc,openpi] [--output FOLDER]

One server process offers every way at once around a policy that answers with a kept chunk (`ways_in_server`), so that
the way alone is timed: from two images of 640x480 with a state in the client's memory to the actions as numbers in its
memory, encoding and decoding on both ends included. Each way has a client process of its own, the stock one where
there is one (`ways_in_clients`, `ways_in_lerobot`); in an interpreter that `PI0_EDGE_LEROBOT_PYTHON` names, that of
LeRobot uses LeRobot's classes.

Ways take turns: one block of each, in an order that moves on by one each turn, so that what slows the machine down
slows all of them. A ratio is that of the medians of the blocks of one turn. Between two requests a client waits 5 ms:
a robot asks seldom, and the server limits the calls of one peer. A further way is an entry in `WAYS`, whose client may
be a program in any language.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from firmware_bridge.emulator.child_process import start_child, stop_child
from pi0_edge.bench.resampling import block_medians
from pi0_edge.latency.percentiles import Latency, fewest_samples, percentile_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CAMERAS = 2
BASIS = "grpc"
"""The way that the others are compared with."""

HEADER = (
    "way",
    "images",
    "MB",
    "n",
    "p50 ms",
    "p99 ms",
    "p50 over gRPC, ms",
    "p99 over gRPC, ms",
    "p50 / gRPC's [95 %]",
    "processor ms: client",
    "server",
)


@dataclass(frozen=True)
class Way:
    """One way in, with its client.

    Attributes:
        name: In the table and on the command line.
        told: What it is, for people.
        images: How images cross.
        server: Which of the server's addresses it asks.
        program: Arguments that start its client, up to its name; see `ways_in_asking` for the rest.
    """

    name: str
    told: str
    images: str
    server: str
    program: tuple[str, ...]


def _here(module: str) -> tuple[str, ...]:
    return (sys.executable, "-W", "ignore", "-m", module)


_CLIENTS = _here("benchmarks.ways_in_clients")
_LEROBOT = (os.environ.get("PI0_EDGE_LEROBOT_PYTHON", sys.executable), *_here("benchmarks.ways_in_lerobot")[1:])

WAYS = (
    Way("bare", "a TCP socket, no way in", "raw", "bare", _CLIENTS),
    Way("grpc", "gRPC", "raw", "grpc", _CLIENTS),
    Way("grpc-jpeg", "gRPC", "JPEG 90", "grpc", _CLIENTS),
    Way("openpi", "openpi", "raw, channels last", "openpi", _CLIENTS),
    Way("openpi-chw", "openpi", "raw, channels first", "openpi", _CLIENTS),
    Way("lerobot", "LeRobot, asynchronous", "raw", "lerobot", _LEROBOT),
)


class Client:
    """The process of a way's client.

    Attributes:
        way: Its way.
        name: What it says that it is.
    """

    def __init__(self, way: Way, arguments: Sequence[str], log: Path) -> None:
        """Starts it, and waits until it is connected.

        Raises:
            SystemExit: If it ends, with what it said.
        """
        self.way = way
        self._log = log
        with log.open("wb") as said:
            self._process = subprocess.Popen(
                [*way.program, way.name, *arguments],
                cwd=log.parent,  # LeRobot's client writes a folder of logs
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
        self.name = self._line().removeprefix("ready ").strip()

    def ask(self, count: int) -> dict[str, Any]:
        """The times of some requests, one after the other."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return json.loads(self._line())

    def end(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            said = self._log.read_text(errors="replace").strip()[-600:]
            raise SystemExit(f"the client of {self.way.name} ended with {self._process.returncode}: {said}")
        return line


@contextmanager
def running_server(bundle: Path, folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The server in a process of its own.

    Yields:
        Its process id, and what it says: addresses, cameras, joints and rows of a chunk.
    """
    log = folder / "server.log"
    process = start_child([*_here("benchmarks.ways_in_server"), str(bundle)], log=log, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the server ended: {log.read_text(errors='replace').strip()[-600:]}")
        yield process.pid, json.loads(line)
    finally:
        stop_child(process)


def worked_ms(process: int) -> float:
    """Time of the processors that a process used up to now, by its own clock of them (clock_getcpuclockid(3))."""
    return 1e3 * time.clock_gettime((~process << 3) | 2)


def measure(
    bundle: Path, ways: Sequence[Way], turns: int, block: int, keep: Callable[[dict[str, Any]], object]
) -> None:
    """Asks over all ways in turns; the first block of each is for warming up and is left out.

    Args:
        bundle: What is served.
        ways: Which ways.
        turns: How many blocks of each.
        block: Requests of a block.
        keep: Gets each block: way, turn, `client`, `ms`, `client_ms`, `server_ms`, `bytes` and load average.
    """
    with tempfile.TemporaryDirectory(prefix="pi0-edge-ways-") as name, ExitStack() as stack:
        folder = Path(name)
        server, facts = stack.enter_context(running_server(bundle.resolve(), folder))
        cameras = facts["cameras"][:CAMERAS]
        if len(cameras) < CAMERAS:
            raise SystemExit(f"{bundle} has the cameras {cameras}; give a bundle of a robot with {CAMERAS}")
        clients = []
        for way in ways:
            address = facts["addresses"][way.server]
            lists = ",".join(cameras), ",".join(facts["joints"])
            clients.append(Client(way, [address, *lists], folder / f"{way.name}.log"))
            stack.callback(clients[-1].end)
        for turn in range(-1, turns):
            for place in range(len(clients)):
                client = clients[(place + turn) % len(clients)]
                before = worked_ms(server)
                answered = client.ask(block)
                if turn < 0:
                    continue
                server_ms = round((worked_ms(server) - before) / block, 4)
                told = {"way": client.way.name, "turn": turn, "client": client.name, "server_ms": server_ms}
                keep({**told, **answered, "load": round(os.getloadavg()[0], 2)})


def ratio_to(basis: Sequence[Mapping[str, Any]], blocks: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Median over the turns of the ratio of two ways' medians, with its interval of 95 %."""
    other = {one["turn"]: float(np.median(one["ms"])) for one in basis}
    ratios = np.array([np.median(one["ms"]) / other[one["turn"]] for one in blocks if one["turn"] in other])
    low, high = np.percentile(block_medians(ratios, np.random.default_rng(0)), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def cells(way: Way, blocks: Sequence[Mapping[str, Any]], basis: Sequence[Mapping[str, Any]]) -> list[str]:
    """The row of a way.

    Args:
        way: The way.
        blocks: What was measured of it, at least one.
        basis: What was measured of gRPC; empty where it was not.
    """
    found = _latency(blocks)
    over, ratio = ["–", "–"], "–"
    if basis and way.name != BASIS:
        other = _latency(basis)
        over[0] = f"{found.p50_ms - other.p50_ms:+.2f}"
        if found.p99_ms is not None and other.p99_ms is not None:
            over[1] = f"{found.p99_ms - other.p99_ms:+.2f}"
        middle, low, high = ratio_to(basis, blocks)
        ratio = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
    tail = f"{found.p99_ms:.2f}" if found.p99_ms is not None else percentile_text(None, 0.99, found.count)
    worked = [float(np.mean([one[name] for one in blocks])) for name in ("client_ms", "server_ms")]
    return [
        *(way.told, way.images, f"{blocks[0]['bytes'] / 1e6:.3f}", str(found.count), f"{found.p50_ms:.2f}", tail),
        *(*over, ratio, *(f"{ms:.1f}" for ms in worked)),
    ]


def table(samples: Sequence[Mapping[str, Any]], machine: Mapping[str, str], call: str) -> str:
    """The page of results.

    Args:
        samples: What `measure` kept.
        machine: As `describe_machine` says.
        call: The command.
    """
    of = {way.name: [one for one in samples if one["way"] == way.name] for way in WAYS}
    loads = [one["load"] for one in samples]
    lines = [f"`{call}`", "", *(f"* {name}: {value}" for name, value in machine.items())]
    if loads:
        lines.append(f"* load average: {min(loads):.1f} to {max(loads):.1f}, that of server and client included")
    lines += [f"* client of {name}: {blocks[0]['client']}" for name, blocks in of.items() if blocks]
    lines += ["", f"| {' | '.join(HEADER)} |", f"|---|---|{'---:|' * (len(HEADER) - 2)}"]
    lines += [f"| {' | '.join(cells(way, of[way.name], of[BASIS]))} |" for way in WAYS if of[way.name]]
    lines += [
        "",
        "From an observation (2 images of 640x480, a state, a prompt) in the client's memory to the actions as numbers",
        "in its memory, over loopback, one request after the other with 5 ms between them. The policy answers with a",
        "kept chunk at once, so that scaling of images, tokens and network are not in the times. Processor times are",
        "means of a request.",
    ]
    return "\n".join(lines) + "\n"


def _latency(blocks: Sequence[Mapping[str, Any]]) -> Latency:
    return Latency.of([ms for one in blocks for ms in one["ms"]])


def chosen(names: str) -> list[Way]:
    """The ways of a list with commas.

    Raises:
        SystemExit: If one is not known.
    """
    known = {way.name: way for way in WAYS}
    found = [name for name in names.split(",") if name]
    if unknown := [name for name in found if name not in known]:
        raise SystemExit(f"there is no way {unknown[0]!r}; expected some of {', '.join(known)}")
    return [known[name] for name in found]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and writes `ways_in.jsonl` with every sample and `ways_in.md` with the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--turns", type=int, default=30, help="blocks of each way")
    parser.add_argument("--block", type=int, default=20, help="requests of a block")
    parser.add_argument("--ways", default=",".join(way.name for way in WAYS), help="which, with commas")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (default: benchmarks/results)")
    options = parser.parse_args(arguments)
    ways = chosen(options.ways)
    if options.turns * options.block < (fewest := fewest_samples(0.99)):
        print(f"{options.turns} blocks of {options.block} carry no 99th percentile, which needs {fewest}")
    samples: list[dict[str, Any]] = []
    measure(options.bundle, ways, options.turns, options.block, samples.append)
    call = f"python -m benchmarks.ways_in BUNDLE --turns {options.turns} --block {options.block}"
    text = table(samples, describe_machine(), call)
    options.output.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(sample) + "\n" for sample in samples)
    (options.output / "ways_in.jsonl").write_text(lines)
    (options.output / "ways_in.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
