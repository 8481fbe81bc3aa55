"""The server of `benchmarks.ways_in`: every way in around one policy that answers with a kept chunk at once.

    python -m benchmarks.ways_in_server BUNDLE

Scaling of images, tokens and the network belong to the policy and not to the way, so none of them is done: what is left
is the way itself, with the checks of messages and the decoding of JPEG. `bare` is no way in: a TCP socket that counts
bytes and sends some back, which shows what the machine takes for them alone.
"""

from __future__ import annotations

import json
import socketserver
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from pi0_edge.bundle import open_bundle
from pi0_edge.policy import Asked, Policy, PolicyChunk
from pi0_edge.serving.lerobot_async import LerobotAsyncServer
from pi0_edge.serving.openpi.server import OpenpiServer
from pi0_edge.serving.policy_server import serve_policy
from pi0_edge.serving.shared_policy import SharedPolicy, WayIn

BARE_REPLY = 8192
"""Bytes, about what a chunk of 50 rows of 14 actions takes."""


class KeptPolicy(Policy):
    """Answers every observation with the chunk that it made for the first one."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy.engine, policy.processor, policy.checkpoint_sha256, policy.bundle, policy.overrides)
        self._kept: PolicyChunk | None = None

    def infer_together(self, asked: Sequence[Asked]) -> list[PolicyChunk | Exception]:
        """The kept chunk for each; the first one is that of a server's own first inference."""
        if self._kept is None:
            made = super().infer_together(asked[:1])[0]
            if isinstance(made, Exception):
                raise made
            self._kept = PolicyChunk(made.actions, made.normalized, 0.0, 0.0, 0.0)
        return [self._kept for _ in asked]


class _Bare(socketserver.BaseRequestHandler):
    """Reads so many bytes as four bytes say, answers, and so on."""

    def handle(self) -> None:
        reply = bytes(BARE_REPLY)
        with self.request.makefile("rb", buffering=1 << 20) as file:
            while head := file.read(4):
                content = file.read(int.from_bytes(head, "big"))
                if not content:
                    return
                self.request.sendall(reply)


class BareSocket:
    """A `WayIn` that knows no policy."""

    protocol = "bare"

    def __init__(self) -> None:
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Bare)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        """As `WayIn.start`."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """As `WayIn.stop`."""
        self._server.shutdown()
        self._server.server_close()


def main() -> None:
    policy = KeptPolicy(Policy.from_bundle(open_bundle(Path(sys.argv[1])), "cpu", None, True))
    robot = policy.processor.robot
    addresses: dict[str, str] = {}

    def openpi(shared: SharedPolicy) -> WayIn:
        return OpenpiServer(shared, "0", default_prompt=robot.default_prompt or "wait")

    def lerobot(shared: SharedPolicy) -> WayIn:
        return LerobotAsyncServer(shared, "0", fps=robot.control_hz or 30.0, units="robot")

    def also_ready(way: WayIn) -> None:
        addresses["lerobot" if isinstance(way, LerobotAsyncServer) else way.protocol] = way.address

    def ready(address: str) -> None:
        facts = {"addresses": {"grpc": address, **addresses}, "cameras": list(robot.cameras)}
        joints = [joint.name for joint in robot.joints]
        print(json.dumps({**facts, "joints": joints, "rows": policy.engine.config.horizon}), flush=True)

    serve_policy(
        policy,
        "127.0.0.1:0",
        also=[openpi, lerobot, lambda _: BareSocket()],
        on_ready=ready,
        on_also_ready=also_ready,
    )


if __name__ == "__main__":
    main()
