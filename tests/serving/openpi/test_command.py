"""`pi0-edge serve --openpi` as a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import run
from openpi_messages import aloha, write
from openpi_server import received
from policy_builders import write_checkpoint

pytest.importorskip("websockets", reason="needs the extra openpi")
pytest.importorskip("msgpack", reason="needs the extra openpi")

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

pytestmark = [pytest.mark.real_time, pytest.mark.system]


def test_serves_openpi_beside_grpc_until_it_is_told_to_stop(tmp_path: Path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    argv = [sys.executable, "-m", "pi0_edge.cli", "serve", "--checkpoint", str(checkpoint), "--listen", "127.0.0.1:0"]
    argv += ["--openpi", "0", "--openpi-prompt", "Transfer", "--threads", "1"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = {process.stdout.readline() for _ in range(2)}
        address = re.search(r"openpi ready on (127\.0\.0\.1:\d+)\n", "".join(lines))
        assert address is not None, lines
        with connect(f"ws://{address[1]}", compression=None) as client:
            assert received(client)["default_prompt"] == "Transfer"
            client.send(write(aloha(("cam_high",))))
            assert received(client)["actions"].shape == (10, 14)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed):
                client.recv(10)
            assert client.close_code == 1001
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "policy server stopped after 1 chunks\n", "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--openpi", "0.0.0.0:8000"], "needs both TLS and an API key"),
        (["--openpi", "robot"], "is not host:port"),
        (["--openpi", "0", "--openpi-api-key", "absent"], "the API key absent cannot be read"),
        (["--openpi-prompt", "fold"], "are of --openpi"),
    ],
)
def test_wrong_options_are_said_before_a_policy_is_read(options: list[str], said: str):
    ran = run("serve", "--checkpoint", "absent", *options)
    assert ran.code == 2
    assert said in " ".join(ran.err.split())
