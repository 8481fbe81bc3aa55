"""A policy server of our own in another process, for as long as a bench asks it: what a robot on one machine has."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firmware_bridge.emulator.child_process import start_child, stop_child
from pi0_edge.bench.served_clients import ServedProtocol
from pi0_edge.errors import BenchError

READY_S = 300.0
_SAID = 600


@contextmanager
def local_server(
    bundle: Path,
    engine: str,
    threads: int | None = None,
    accept_failed_gate: bool = False,
    protocol: ServedProtocol = "grpc",
) -> Iterator[tuple[str, float]]:
    """Serves a bundle on loopback.

    Args:
        bundle: Its folder.
        engine: What runs the network.
        threads: CPU threads of the network; torch's default where None.
        accept_failed_gate: Whether the user takes responsibility for a gate that failed or is missing.
        protocol: Whose address is wanted.

    Yields:
        host:port, and the seconds until it was ready.

    Raises:
        BenchError: If it ends or is not ready in time; the message ends with what it said.
    """
    argv = [sys.executable, "-u", "-m", "pi0_edge.cli", "serve", "--bundle", str(bundle.resolve()), "--engine", engine]
    argv += ["--listen", "127.0.0.1:0"]
    argv += [] if threads is None else ["--threads", str(threads)]
    argv += ["--accept-failed-gate"] if accept_failed_gate else []
    argv += ["--openpi", "0"] if protocol == "openpi" else []
    with tempfile.TemporaryDirectory(prefix="pi0-edge-bench-") as folder:
        log = Path(folder) / "policy.log"
        begin = time.monotonic()
        process = start_child(argv, log=log)
        try:
            address = _address(process, log, "openpi" if protocol == "openpi" else "policy")
            yield address, time.monotonic() - begin
        finally:
            stop_child(process)


def _address(process: subprocess.Popen[bytes], log: Path, name: str) -> str:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        said = log.read_text(errors="replace")
        if found := re.search(rf"^{name} ready on (\S+)$", said, re.MULTILINE):
            return found[1]
        if process.poll() is not None:
            raise BenchError(f"the policy server ended with {process.returncode}: {said.strip()[-_SAID:]}")
        time.sleep(0.02)
    raise BenchError(f"the policy server was not ready within {READY_S:.0f} s; it said: {_end(log)}")


def _end(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-_SAID:]
