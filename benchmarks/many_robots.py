"""Several robots that ask one policy server: what one pass for all of them brings, and whether each gets its share.

    python -m benchmarks.many_robots [BUNDLE] [--seconds 60] [--clients 1 2 4 8] [--batches 1 8] [--waits 0 20]

Every robot asks for the next chunk as soon as it has one, so the server is never idle: the most that it can do, and the
longest that anyone waits. Robots send raw images of the size of the network over gRPC on loopback, each on a connection
of its own. The server runs in a process of its own; its robots share this one, and so the processor with it.

Latencies are told by the rule of `pi0_edge.latency.percentiles`, or not at all. `share` is the number of chunks of the
robot with the fewest, divided by that of the robot with the most. Without a bundle the shipped policy is served.
Writes `benchmarks/results/many_robots.txt` and `.md`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import numpy as np

from benchmarks.machine import describe_machine
from pi0_edge.errors import BenchError
from pi0_edge.latency.percentiles import Latency, percentile_text
from pi0_edge.processing import Observation
from pi0_edge.protos import policy_pb2
from pi0_edge.serving.policy_client import PolicyClient
from pi0_edge.shipped import shipped_checkpoint

RESULTS = Path(__file__).parent / "results"
SIDE = 112
TIMEOUT_S = 300.0
HEAD = "| robots | batch | wait | chunks/s | p50 | p99 | n | in one pass, mean | share |"


@dataclass(frozen=True)
class Measured:
    """One configuration.

    Attributes:
        robots: That asked at the same time.
        batch: Most observations of one pass.
        wait_ms: How long an observation waits for others.
        seconds: How long.
        chunks: Of each robot.
        latency: From an observation to its chunk, as a robot sees it.
        mean_pass: Observations of one pass, on average.
    """

    robots: int
    batch: int
    wait_ms: float
    seconds: float
    chunks: tuple[int, ...]
    latency: Latency
    mean_pass: float

    def row(self) -> str:
        """Of the table."""
        latency = self.latency
        cells = [
            str(self.robots),
            str(self.batch),
            f"{self.wait_ms:g} ms",
            f"{sum(self.chunks) / self.seconds:.2f}",
            f"{latency.p50_ms:.4g} ms",
            percentile_text(latency.p99_ms, 0.99, latency.count),
            str(latency.count),
            f"{self.mean_pass:.2f}",
            f"{min(self.chunks) / max(self.chunks):.2f}",
        ]
        return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class Serving:
    """A server in a process of its own.

    Attributes:
        address: Where it answers.
        metrics_port: Where it tells its figures.
    """

    address: str
    metrics_port: int

    def passes(self) -> tuple[float, float]:
        """How many passes there were, and of how many observations."""
        with urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = [re.search(rf"^pi0_edge_batch_size_{name} (\S+)$", text, re.MULTILINE) for name in ("count", "sum")]
        if not all(found):
            raise BenchError("the server tells no pi0_edge_batch_size; expected a server of this version")
        return float(found[0][1]), float(found[1][1])  # pyright: ignore[reportOptionalSubscript]


@contextmanager
def serving(source: Sequence[str], batch: int, wait_ms: float, port: int = 9469) -> Iterator[Serving]:
    """A server with `--batch` and `--batch-wait-ms` of the policy that the options `source` name."""
    argv = [sys.executable, "-m", "pi0_edge.cli", "serve", *source, "--listen", "127.0.0.1:0", "--batch", str(batch)]
    argv += ["--batch-wait-ms", str(wait_ms)] if wait_ms else []
    server = subprocess.Popen([*argv, "--metrics-port", str(port)], stdout=subprocess.PIPE, text=True)
    try:
        said = "" if server.stdout is None else server.stdout.readline()
        found = re.search(r"policy ready on (\S+)", said)
        if found is None:
            raise BenchError(f"the server said {said!r}, expected that it is ready; its own words stand above")
        yield Serving(found[1], port)
    finally:
        server.terminate()
        server.wait(60)


def observations(metadata: policy_pb2.PolicyMetadata, count: int = 4) -> list[Observation]:
    """Noise for every camera, and a state in the middle of nothing: how long a chunk takes does not depend on it."""
    rng = np.random.default_rng(0)
    return [
        Observation(
            {camera: rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8) for camera in metadata.cameras},
            np.zeros(metadata.state_dim),
            None,
        )
        for _ in range(count)
    ]


def measure(server: Serving, robots: int, batch: int, wait_ms: float, seconds: float) -> Measured:
    """Lets so many robots ask for so long.

    Raises:
        BenchError: If one of them got an error instead of a chunk.
    """
    times: list[list[float]] = [[] for _ in range(robots)]
    failed: list[Exception] = []
    together, over = threading.Barrier(robots + 1), threading.Event()

    def ask(own: list[float]) -> None:
        try:
            with PolicyClient(server.address, TIMEOUT_S) as client:
                shown = observations(client.metadata())
                client.infer(shown[0], 1, 1)
                together.wait(TIMEOUT_S)
                while not over.is_set():
                    began = time.perf_counter()
                    client.infer(shown[len(own) % len(shown)], 1, 1)
                    own.append(1e3 * (time.perf_counter() - began))
        except Exception as error:
            failed.append(error)
            together.abort()

    threads = [threading.Thread(target=ask, args=(own,)) for own in times]
    for thread in threads:
        thread.start()
    try:
        together.wait(TIMEOUT_S)
        before, began = server.passes(), time.perf_counter()
        over.wait(seconds)
    except threading.BrokenBarrierError:
        before, began = (0.0, 0.0), time.perf_counter()
    over.set()
    for thread in threads:
        thread.join()
    if failed or not all(times):
        why = failed[0] if failed else f"a robot had no chunk within {seconds:g} s; allow more with --seconds"
        raise BenchError(f"{robots} robots with a batch of {batch}: {why}")
    lasted, after = time.perf_counter() - began, server.passes()
    mean_pass = (after[1] - before[1]) / (after[0] - before[0])
    chunks = tuple(len(own) for own in times)
    latency = Latency.of([each for own in times for each in own])
    return Measured(robots, batch, wait_ms, lasted, chunks, latency, mean_pass)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=shipped_checkpoint())
    parser.add_argument("--engine", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--waits", type=float, nargs="+", default=[0.0, 20.0], help="Milliseconds, with a batch.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    source = ["--bundle", str(options.bundle)] if options.bundle else ["--checkpoint", str(options.checkpoint)]
    source += ["--engine", options.engine]
    source += [] if options.threads is None else ["--threads", str(options.threads)]
    command = f"python -m benchmarks.many_robots --seconds {options.seconds:g} --engine {options.engine}"
    about = [f"command: {command}", f"policy: {options.bundle.name if options.bundle else options.checkpoint.name}"]
    about += [f"{name}: {value}" for name, value in describe_machine().items()]
    about += [f"load before: {' '.join(f'{load:.1f}' for load in os.getloadavg())} (1, 5, 15 minutes)"]
    lines = [HEAD, "|---|---|---|---|---|---|---|---|---|"]
    print("\n".join([*about, "", *lines]), flush=True)
    cases = [(batch, wait_ms) for batch in options.batches for wait_ms in (options.waits if batch > 1 else [0.0])]
    for batch, wait_ms in cases:
        with serving(source, batch, wait_ms) as server:
            for robots in options.clients:
                lines.append(measure(server, robots, batch, wait_ms, options.seconds).row())
                print(lines[-1], flush=True)
    after = f"load after: {' '.join(f'{load:.1f}' for load in os.getloadavg())}"
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "many_robots.txt").write_text("\n".join([*about, after, "", *lines, ""]))
    (options.results / "many_robots.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
