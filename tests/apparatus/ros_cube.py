"""The simulated ALOHA as a robot of ROS 2: camera, joint states, clock and trajectory controller. A program of its own.

Called by an interpreter with rclpy and the simulation, with the name of the policy node, the wall time of a tick in
milliseconds, and the seeds of the cubes. The node is configured and uses the time of the simulation. Each episode
begins with *activate* and ends with *deactivate*; a line of JSON says how it went.
"""

# pyright: reportMissingImports=false
# rclpy and the messages come from the ROS environment.

from __future__ import annotations

import array
import json
import sys
import threading
import time
from typing import Any

import numpy as np
import rclpy
from lifecycle_msgs.srv import ChangeState
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from pi0_edge.sim.aloha import CONTROL_HZ, HOME, JOINT_NAMES
from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube

TICK_NS = 1_000_000_000 // CONTROL_HZ
MOST_TICKS = 600
SIZE = 112
ACTIVATE, DEACTIVATE = 3, 4


class Controller:
    """As ros2_control's JointTrajectoryController documents itself: positions alone, interpolated linearly.

    A new trajectory replaces the running one. It begins with a line from where the arm was told to be to the first
    point that is still to come, and its last point is held.
    """

    def __init__(self) -> None:
        self._times = np.zeros(1)
        self._positions = HOME[None].astype(np.float64)
        self.late_points = 0

    def take(self, message: Any, now_ns: int) -> None:
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        order = [message.joint_names.index(name) for name in JOINT_NAMES]
        after = np.array(
            [point.time_from_start.sec * 10**9 + point.time_from_start.nanosec for point in message.points]
        )
        assert (np.diff(after) > 0).all(), "time_from_start does not increase"
        times, positions = stamp_ns + after, np.array([np.array(point.positions)[order] for point in message.points])
        coming = times > now_ns
        self.late_points += int((~coming).sum())
        if coming.any():
            self._positions = np.concatenate([self.at(now_ns)[None], positions[coming]])
            self._times = np.concatenate([[now_ns], times[coming]]).astype(np.float64)

    def at(self, time_ns: int) -> NDArray[np.float64]:
        return np.array([np.interp(time_ns, self._times, column) for column in self._positions.T])


class CubeRobot(Node):
    """Publishes one tick after the other."""

    def __init__(self, node: str, tick_s: float) -> None:
        super().__init__("cube_robot")
        self._tick_s = tick_s
        self._now_ns = 1_000 * 10**9
        self._came: list[Any] = []
        self._change = self.create_client(ChangeState, f"/{node}/change_state")
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        self._clock_topic = self.create_publisher(Clock, "/clock", reliable)
        self._images = self.create_publisher(Image, "top/image_raw", qos_profile_sensor_data)
        self._joints = self.create_publisher(JointState, "joint_states", reliable)
        self.create_subscription(
            JointTrajectory, "joint_trajectory_controller/joint_trajectory", self._came.append, reliable
        )
        self._env = AlohaTransferCube()

    def play(self, seed: int) -> dict[str, Any]:
        self._env.reset(seed)
        controller, trajectories, began = Controller(), 0, time.monotonic()
        self._publish()
        self._transition(ACTIVATE)
        ticks = 0
        while not self._env.success and ticks < MOST_TICKS:
            due_s = began + ticks * self._tick_s
            time.sleep(max(0.0, due_s - time.monotonic()))
            self._publish()
            while self._came:
                controller.take(self._came.pop(0), self._now_ns)
                trajectories += 1
            self._now_ns += TICK_NS
            self._env.step(controller.at(self._now_ns))
            ticks += 1
        self._transition(DEACTIVATE)
        time.sleep(0.2)
        self._came.clear()
        tick_ms = 1e3 * (time.monotonic() - began) / ticks
        return {
            "seed": seed,
            "success": bool(self._env.success),
            "ticks": ticks,
            "tick_ms": round(tick_ms, 1),
            "trajectories": trajectories,
            "late_points": controller.late_points,
        }

    def _publish(self) -> None:
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = divmod(self._now_ns, 10**9)
        self._clock_topic.publish(clock)
        # By name: the other way round than the policy has them.
        state = self._env.state.astype(float).tolist()
        joints = JointState(name=list(JOINT_NAMES[::-1]), position=state[::-1])
        joints.header.stamp = clock.clock
        self._joints.publish(joints)
        pixels = self._env.render("top", SIZE, SIZE)
        image = Image(height=SIZE, width=SIZE, encoding="rgb8", step=3 * SIZE, data=array.array("B", pixels.tobytes()))
        image.header.stamp = clock.clock
        self._images.publish(image)

    def _transition(self, number: int) -> None:
        assert self._change.wait_for_service(15.0)
        request = ChangeState.Request()
        request.transition.id = number
        asked = self._change.call_async(request)
        deadline = time.monotonic() + 15.0
        while not asked.done():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        answer = asked.result()
        assert answer is not None and answer.success, f"transition {number}"


def main() -> None:
    rclpy.init()
    robot = CubeRobot(sys.argv[1], float(sys.argv[2]) / 1e3)
    executor = SingleThreadedExecutor()
    executor.add_node(robot)
    threading.Thread(target=executor.spin, daemon=True).start()
    for seed in sys.argv[3:]:
        sys.stdout.write(json.dumps(robot.play(int(seed))) + "\n")
        sys.stdout.flush()
    robot._env.close()
    executor.shutdown()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
