"""A robot's loop: observe, ask the policy server, hand the chunk to the bridge; the firmware plays it at 50 Hz.

One terminal each::

    pi0-edge serve                                 # terminal 1: the policy
    pi0-edge bridge --port /dev/ttyACM0            # terminal 2: the microcontroller
    python examples/python/closed_loop.py --chunks 20

Replace `read_cameras` by yours: of black images a policy knows nothing, and a first chunk that does not begin where the
arm is gets refused. The state is where the joints were measured. While a chunk is computed the firmware plays the one
before; a chunk that comes late is entered at the action that is due.
"""

import argparse
import time

import numpy as np

from pi0_edge import BridgeClient, Observation, PolicyClient


def read_cameras(cameras: list[str]) -> dict[str, np.ndarray]:
    """One image per camera, uint8 [height, width, 3], RGB."""
    return {camera: np.zeros((240, 320, 3), np.uint8) for camera in cameras}


def main() -> None:
    """Plays so many chunks, then disarms."""
    parser = argparse.ArgumentParser(description="Closed loop of policy server and bridge.")
    parser.add_argument("--policy", default="127.0.0.1:50051", help="host:port of the policy server")
    parser.add_argument("--bridge", default="127.0.0.1:50061", help="host:port of the bridge")
    parser.add_argument("--chunks", type=int, default=20, help="how many chunks to play")
    options = parser.parse_args()
    with PolicyClient(options.policy) as policy, BridgeClient(options.bridge, "closed loop") as bridge:
        policy.wait_ready(60.0)
        bridge.wait_ready()
        metadata = policy.metadata()
        bridge.arm(metadata.action_names)  # refused where the joints of policy and bridge differ
        with bridge.telemetry() as ticks, bridge.play() as stream:
            for number in range(options.chunks):
                tick = next(ticks)
                observation = Observation(read_cameras(list(metadata.cameras)), tick.measured, metadata.default_prompt)
                chunk = policy.infer(observation, tick.tick, time.monotonic_ns())
                actions = np.reshape(chunk.actions, (chunk.horizon, chunk.action_dim))
                stream.send(actions, tick.tick)
                report = stream.next_report(2.0)
                said = f"{report.Outcome.Name(report.outcome)} {report.reason}" if report else "no report"
                print(f"chunk {number}: {said}".rstrip(), flush=True)
                while tick.tick < chunk.clock.tick + chunk.horizon // 2:  # replan when half of it is played
                    tick = next(ticks)
        bridge.disarm("the example is over")


if __name__ == "__main__":
    main()
