"""`pi0-edge serve --lerobot-async` as a process of its own, and what it refuses before it reads weights."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import grpc
import pytest
from cli_runner import run
from policy_builders import write_checkpoint

from pi0_edge.serving.lerobot_async import wire

pytestmark = [pytest.mark.real_time, pytest.mark.system]


def test_serves_clients_of_lerobot_beside_its_own(tmp_path, stand_in):
    argv = [
        sys.executable,
        "-m",
        "pi0_edge.cli",
        "serve",
        "--checkpoint",
        str(write_checkpoint(tmp_path / "checkpoint")),
    ]
    argv += ["--listen", "127.0.0.1:0", "--threads", "1", "--lerobot-async", "0"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        # The order of the two lines is that in which the ports open.
        lines = "".join(process.stdout.readline() for _ in range(2))
        address = re.search(r"LeRobot's asynchronous inference ready on (127\.0\.0\.1:\d+)\n", lines)
        assert address is not None, lines
        assert "policy ready on 127.0.0.1:" in lines
        with grpc.insecure_channel(address[1]) as channel:

            def call(name: str, request: object) -> bytes:
                serialize = type(request).SerializeToString  # pyright: ignore[reportAttributeAccessIssue]
                return channel.unary_unary(f"/{wire.SERVICE}/{name}", serialize)(request, timeout=20)

            call("Ready", wire.Empty())
            call("SendPolicyInstructions", wire.PolicySetup(data=stand_in.vector("config")))
            piece = wire.Observation(transfer_state=wire.END, data=stand_in.vector("observation"))
            send = channel.stream_unary(f"/{wire.SERVICE}/SendObservations", wire.Observation.SerializeToString)
            send(iter([piece]), timeout=20)
            rows = stand_in.read_reply(wire.Actions.FromString(call("GetActions", wire.Empty())).data)
        assert rows[1]["timestamp"] - rows[0]["timestamp"] == pytest.approx(1 / 50)  # the rate of the policy's robot
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert out == "policy server stopped after 1 chunks\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--lerobot-async", "0.0.0.0:8080"), "no TLS"),
        (("--lerobot-async", "nowhere"), "host:port"),
        (("--lerobot-async", "0", "--lerobot-units", "counts"), "degrees"),
        (("--lerobot-units", "degrees"), "--lerobot-async"),
    ],
)
def test_what_cannot_be_is_refused_before_weights_are_read(options, words):
    result = run("serve", "--checkpoint", "nowhere", *options)
    assert result.code != 0
    assert words in result.err
