"""A client of the bridge from nothing but the protos: watches the arm, or holds it where it is for a second.

python examples/python/robot_client.py localhost:50061                         # a bridge on this machine
python examples/python/robot_client.py robot.local:50061 --tls laptop --hold   # with a certificate, role command

In a program of your own, `firmware_bridge.client.BridgeClient` does the same with less to write.
"""

import argparse
import sys
from pathlib import Path

import grpc

from pi0_edge.protos import bridge_pb2, bridge_pb2_grpc, policy_pb2

TICKS = 25  # half a second
HORIZON = 50
CALL_LIMIT_S = 5.0


def open_channel(address: str, tls: Path | None) -> grpc.Channel:
    """A plain channel, or one that shows the certificate in the folder `tls`."""
    if tls is None:
        return grpc.insecure_channel(address)
    authority, key, certificate = ((tls / f"{name}.pem").read_bytes() for name in ("authority", "key", "certificate"))
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority, key, certificate))


def watch(bridge: bridge_pb2_grpc.RobotBridgeStub) -> bridge_pb2.Telemetry:
    """Prints the state of the arm and some ticks; returns the last of them."""
    status = bridge.GetStatus(bridge_pb2.StatusRequest(), timeout=CALL_LIMIT_S)
    state = bridge_pb2.State.Name(status.state)
    print(f"{state}, {status.joint_count} joints, {status.tick_period_s * 1e3:.0f} ms per tick")
    ticks = bridge.WatchTelemetry(bridge_pb2.TelemetryRequest(), timeout=CALL_LIMIT_S)
    tick = next(ticks)
    for _ in range(TICKS - 1):
        tick = next(ticks)
    ticks.cancel()
    print(f"tick {tick.tick}: " + " ".join(f"{position:.3f}" for position in tick.executed))
    return tick


def hold(bridge: bridge_pb2_grpc.RobotBridgeStub, tick: bridge_pb2.Telemetry) -> bool:
    """Arms, plays one chunk that stays where the arm is, and disarms; whether the firmware took the chunk."""
    status = bridge.GetStatus(bridge_pb2.StatusRequest(), timeout=CALL_LIMIT_S)
    # The chunk repeats what the bridge reported, so its joints are the bridge's; a policy names its own.
    request = bridge_pb2.ArmRequest(client="example in Python", joint_names=status.joint_names)
    lease = bridge.Arm(request, timeout=CALL_LIMIT_S).lease
    chunk = policy_pb2.Chunk(
        horizon=HORIZON,
        action_dim=len(tick.executed),
        actions=list(tick.executed) * HORIZON,
        clock=policy_pb2.ObservationClock(tick=status.tick),
    )
    chunks = iter([bridge_pb2.PlayRequest(lease=lease, chunk=chunk)])
    report = next(bridge.PlayChunks(chunks, timeout=CALL_LIMIT_S))
    print(f"chunk {report.chunk_id}: {bridge_pb2.ChunkReport.Outcome.Name(report.outcome)} {report.reason}".rstrip())
    bridge.Disarm(bridge_pb2.CommandRequest(lease=lease), timeout=CALL_LIMIT_S)
    return report.outcome == bridge_pb2.ChunkReport.ACCEPTED


def main() -> int:
    """Returns 0 where all went well, else 1 after one line that says what did not."""
    parser = argparse.ArgumentParser(description="Watch an arm, or hold it where it is for a second.")
    parser.add_argument("address", help="host:port of the bridge")
    parser.add_argument("--tls", type=Path, metavar="FOLDER", help="folder from `pi0-edge certificates client`")
    parser.add_argument("--hold", action="store_true", help="arm and hold; needs the role command")
    options = parser.parse_args()
    try:
        with open_channel(options.address, options.tls) as channel:
            bridge = bridge_pb2_grpc.RobotBridgeStub(channel)
            tick = watch(bridge)
            return 0 if not options.hold or hold(bridge, tick) else 1
    except grpc.RpcError as error:
        print(f"error: {error.code().name}: {error.details()}", file=sys.stderr)  # pyright: ignore[reportAttributeAccessIssue]
        return 1


if __name__ == "__main__":
    sys.exit(main())
