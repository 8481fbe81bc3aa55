"""The first motion of an arm: one joint goes a little way and comes back, as slowly as its acceleration is tame.

python examples/python/first_motion.py localhost:50061 shoulder_pan 0.1   # in the joint's unit, here rad

Keep the e-stop in reach. Prints how far the joint was from where it was told to be.
"""

import argparse
import sys

import numpy as np

from firmware_bridge.client import BridgeClient
from pi0_edge.errors import Pi0EdgeError
from pi0_edge.protos.bridge_pb2 import ChunkReport

TICKS = 60  # setpoints of one chunk, at most 64
LAG_TICKS = 2  # of a servo


def move(bridge: BridgeClient, joint: str, distance: float) -> float:
    """Moves a joint by `distance` and back; returns the largest following error, in the joint's unit."""
    names = list(bridge.status().joint_names)
    place = names.index(joint)
    bridge.arm(names)
    with bridge.telemetry() as ticks, bridge.play() as stream:
        start = next(ticks)
        path = np.tile(start.measured, (TICKS, 1))
        path[:, place] += 0.5 * distance * (1.0 - np.cos(np.linspace(0.0, 2.0 * np.pi, TICKS)))
        stream.send(path, start.tick)
        report = stream.next_report(2.0)
        if report is None or report.outcome != ChunkReport.ACCEPTED:
            raise SystemExit(f"the chunk was not played: {report}")
        played = [next(ticks) for _ in range(TICKS - 5)]
    bridge.disarm("the first motion")
    told, been = (np.array([getattr(tick, name)[place] for tick in played]) for name in ("executed", "measured"))
    return float(np.abs(told[:-LAG_TICKS] - been[LAG_TICKS:]).max())


def main() -> int:
    """Runs the example; returns 1 after an error, which it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bridge", help="host:port of the bridge")
    parser.add_argument("joint", help="its name in the robot file")
    parser.add_argument("distance", type=float, help="in the joint's unit; keep it small")
    options = parser.parse_args()
    try:
        with BridgeClient(options.bridge, name="first motion") as bridge:
            bridge.wait_ready()
            error = move(bridge, options.joint, options.distance)
    except Pi0EdgeError as refused:
        print(f"error: {refused}", file=sys.stderr)
        return 1
    print(f"{options.joint} moved by {options.distance:g} and back; following error at most {error:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
