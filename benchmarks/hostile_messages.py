"""Hostile messages to every way in: what becomes of each, and what the servers take meanwhile.

    python -m benchmarks.hostile_messages [--count 10000] [--seed 1] [--way NAME]

The servers are those of the command line, each in a process of its own and in an empty folder: `pi0-edge serve` with
gRPC, openpi's websocket and LeRobot's asynchronous inference, and `pi0-edge bridge` with the firmware in QEMU. The
messages come from grammars and from right messages with changed bytes (`tests/apparatus/hostile_*.py`), `--count` of
them for each way in, the same for a seed. Meanwhile a good client of the same way asks five times a second. Of the
pickles, many would write a file where they are loaded.

Exit code 1 where anything is wrong: an answer to what has to be refused, no end, an error that blames the server, a
traceback in its log, a process or a file more, or a good client that was not answered.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.machine import describe_machine

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "apparatus"))

from hostile_peers import (
    LerobotPeer,
    Tally,
    attack_grpc,
    attack_lease,
    attack_lerobot,
    attack_openpi,
    slow_handshakes,
)
from hostile_pickles import LAST
from hostile_requests import right_observation
from lerobot_stand_in import LerobotStandIn
from openpi_messages import aloha, write
from policy_builders import write_checkpoint
from watched_server import Good, WatchedServer, asking
from websockets.sync.client import connect

from firmware_bridge.client import BridgeClient
from firmware_bridge.emulator.board import EmulatedBoard
from pi0_edge.protos import policy_pb2_grpc
from pi0_edge.protos.rpc.tls import open_channel
from pi0_edge.robots import load_robot

BATCHES = 10
READY = r"(?m)^(?P<name>.+) ready on (?P<address>\S+:\d+)$"
BRIDGE_READY = r"(?P<name>bridge) ready: listening on (?P<address>\S+:\d+)"
POLICY, OPENPI, LEROBOT = "policy", "openpi", "LeRobot's asynchronous inference"
GROWTH_MIB = 64.0
"""More memory than this after the first batch is growth; caches and threads of gRPC come in the first."""


@dataclass
class Outcome:
    """What one way in went through.

    Attributes:
        tally: Of its messages.
        good: Of its good client.
        memory_mib: Before, after the first batch, and after the last.
        seconds: That the messages took.
        wrong: What should not be.
    """

    tally: Tally
    good: Good
    memory_mib: tuple[float, float, float]
    seconds: float
    wrong: list[str]


def run_way(
    server: WatchedServer, attack: Callable[[int, int, Tally], object], ask: Callable[[], object], count: int, seed: int
) -> Outcome:
    """Sends the messages in batches, and looks at the server after each.

    Args:
        server: Runs.
        attack: Sends a count of messages of a seed.
        ask: One question of a good client.
        count: Messages.
        seed: Of all of them.
    """
    tally, wrong = Tally(), list[str]()
    ask()
    memory = [server.memory_mib()]
    began, files, opened = time.monotonic(), server.files(), server.connections()
    with asking(ask) as good:
        for batch in range(BATCHES):
            attack(count // BATCHES, seed * 1000 + batch, tally)
            memory.append(server.memory_mib())
            if not server.alive():
                raise SystemExit(f"the server ended:\n{server.log()[-3000:]}")
    seconds = time.monotonic() - began
    if server.children():
        wrong.append(f"{server.children()} processes were started")
    if server.files() != files:
        wrong.append(f"files were made: {server.files()}")
    if "Traceback" in server.log():
        wrong.append(f"a traceback in the log: ...{server.log().split('Traceback')[1][:600]}")
    if memory[-1] - memory[1] > GROWTH_MIB:
        wrong.append(f"memory grew from {memory[1]:.0f} to {memory[-1]:.0f} MiB")
    if server.connections() > opened + 40:
        wrong.append(f"{server.connections()} files are open, {opened} were")
    return Outcome(tally, good, (memory[0], memory[1], memory[-1]), seconds, [*tally.wrong, *good.failed, *wrong])


@contextmanager
def policy_ways(folder: Path) -> Iterator[dict[str, tuple[WatchedServer, Callable[..., object], Callable[[], object]]]]:
    """The ways in of the policy server: server, attack and a good client's question of each."""
    checkpoint = str(write_checkpoint(folder / "checkpoint"))
    arguments = ["serve", "--checkpoint", checkpoint, "--listen", "127.0.0.1:0", "--threads", "1"]
    arguments += ["--openpi", "0", "--lerobot-async", "0"]
    with ExitStack() as stack:
        server = stack.enter_context(WatchedServer(folder / "serve", arguments, READY, 3))
        stand_in = LerobotStandIn(folder / "lerobot", [joint.name for joint in load_robot("aloha_sim").joints])
        stack.callback(stand_in.close)
        right = {name: stand_in.vector(name) for name in ("config", "observation")}
        canary = server.folder / "canary"
        stub = policy_pb2_grpc.PolicyServiceStub(stack.enter_context(open_channel(server.addresses[POLICY], None)))
        robot_of_openpi = stack.enter_context(connect(f"ws://{server.addresses[OPENPI]}", compression=None))
        robot_of_openpi.recv(10)
        robot = LerobotPeer(server.addresses[LEROBOT])
        stack.callback(robot.close)

        def ask_openpi() -> None:
            robot_of_openpi.send(write(aloha(("cam_high",))))
            reply = robot_of_openpi.recv(30)
            assert isinstance(reply, bytes), reply

        def ask_lerobot() -> None:
            assert robot.instruct(right["config"])[0] == "answered"
            assert robot.send([(LAST, right["observation"])])[0] == "answered"
            # Empty means that there is none yet, after two seconds at most; the stock client asks again.
            assert any(robot.actions() for _ in range(5)), "no actions within five calls"

        yield {
            "gRPC policy": (
                server,
                partial(attack_grpc, server.addresses[POLICY], "pi0_edge.v1.PolicyService"),
                lambda: stub.Infer(right_observation(), timeout=30),
            ),
            "openpi websocket": (server, partial(attack_openpi, server.addresses[OPENPI]), ask_openpi),
            "LeRobot asynchronous": (
                server,
                partial(attack_lerobot, server.addresses[LEROBOT], canary=canary, right=right),
                ask_lerobot,
            ),
        }


@contextmanager
def bridge_ways(
    folder: Path, image: Path
) -> Iterator[dict[str, tuple[WatchedServer, Callable[..., object], Callable[[], object]]]]:
    """Those of the bridge: from a peer without the arm, and from one that holds it."""
    with EmulatedBoard(image) as board:
        arguments = ["bridge", "--port", board.port, "--listen", "127.0.0.1:0", "--robot", "aloha", "--log-json"]
        with WatchedServer(folder / "bridge", arguments, BRIDGE_READY) as server:
            address = server.addresses["bridge"]
            with BridgeClient(address, "good") as client:

                def hold(count: int, seed: int, tally: Tally) -> None:
                    moved = max(map(abs, attack_lease(address, count, seed, tally)))
                    if moved > 1e-3:
                        tally.wrong.append(f"the arm moved by {moved}")

                yield {
                    "gRPC bridge": (server, partial(attack_grpc, address, "pi0_edge.v1.RobotBridge"), client.status),
                    "gRPC bridge, arm held": (server, hold, client.status),
                }


def show(name: str, outcome: Outcome) -> str:
    """The lines of one way in."""
    tally, (before, first, last) = outcome.tally, outcome.memory_mib
    kinds = ", ".join(f"{kind} {count}" for kind, count in tally.refused.most_common())
    return (
        f"{name:24} {tally.sent:6} {tally.refused.total():8} {tally.answered:9} {tally.left:6} {len(outcome.wrong):6} "
        f"{before:7.0f} {first:7.0f} {last:7.0f} {outcome.good.answers:9} {1e3 * outcome.good.slowest_s:8.0f} "
        f"{outcome.seconds:6.0f}\n    refused by: {kinds}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Attacks every way in; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="messages for each way in")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--image", type=Path, help="firmware for the emulated board; without it no bridge")
    parser.add_argument("--way", help="only the ways whose names have this in them", default="")
    options = parser.parse_args(arguments)
    for what, value in describe_machine().items():
        print(f"{what}: {value}")
    print(f"\n{options.count} messages for each way in, seed {options.seed}\n")
    titles = ("sent", "refused", "answered", "left", "wrong", "MiB", "first", "last", "good ok", "max ms", "s")
    print(
        f"{'way in':24} "
        + " ".join(f"{t:>{w}}" for t, w in zip(titles, (6, 8, 9, 6, 6, 7, 7, 7, 9, 8, 6), strict=True))
    )
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        ways = stack.enter_context(policy_ways(Path(temporary)))
        if options.image is not None:
            ways |= stack.enter_context(bridge_ways(Path(temporary), options.image))
        for name, (server, attack, ask) in ways.items():
            if options.way not in name:
                continue
            outcome = run_way(
                server,
                lambda count, seed, tally, attack=attack: attack(count=count, seed=seed, tally=tally),
                ask,
                options.count,
                options.seed,
            )
            print(show(name, outcome), flush=True)
            wrong += [f"{name}: {what}" for what in outcome.wrong]
        if options.way in "slow handshakes":
            ended_s = slow_handshakes(ways["openpi websocket"][0].addresses[OPENPI], 40)
            print(f"40 slow handshakes: the last was ended after {ended_s:.1f} s")
            ways["openpi websocket"][2]()
    for what in wrong[:40]:
        print(f"wrong: {what}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
