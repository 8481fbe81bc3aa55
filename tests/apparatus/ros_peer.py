"""The rest of a ROS 2 system around the policy node: cameras, joints, a controller, a person. A program of its own.

Called by an interpreter with rclpy, with the name of the node. Reads one JSON object per line, {"do": NAME, ...}, calls
the method of `Peer` with that name, and answers with one JSON value per line. The trajectories that come are kept; the
joints stay where they were put.
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

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

LIMIT_S = 15.0
TRANSITIONS = {"configure": 1, "cleanup": 2, "activate": 3, "deactivate": 4}


class Peer(Node):
    """Plays what the node needs and remembers what it sends."""

    def __init__(self, node: str) -> None:
        super().__init__("peer")
        self._change = self.create_client(ChangeState, f"/{node}/change_state")
        self._state = self.create_client(GetState, f"/{node}/get_state")
        self._stop = self.create_client(Trigger, f"/{node}/estop")
        self._settings = AsyncParameterClient(self, node)
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        latched = QoSProfile(
            depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
        )
        self._images = self.create_publisher(Image, "top/image_raw", qos_profile_sensor_data)
        self._compressed = self.create_publisher(CompressedImage, "top/image_raw/compressed", reliable)
        self._joints = self.create_publisher(JointState, "joint_states", reliable)
        self._prompts = self.create_publisher(String, f"/{node}/prompt", latched)
        self._trajectories: list[dict[str, Any]] = []
        self._diagnosis: dict[str, Any] = {}
        self.create_subscription(JointTrajectory, "joint_trajectory_controller/joint_trajectory", self._take, reliable)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnosis, reliable)
        self._played: dict[str, Any] = {}
        self.create_timer(0.02, self._play)

    def transition(self, name: str) -> bool:
        """Asks for a transition; whether the node made it."""
        request = ChangeState.Request()
        request.transition.id = TRANSITIONS[name]
        return self._call(self._change, request).success

    def state(self) -> str:
        return self._call(self._state, GetState.Request()).current_state.label

    def estop(self) -> dict[str, Any]:
        """Calls the service; how it was answered and after how many seconds."""
        begin_s = time.monotonic()
        answer = self._call(self._stop, Trigger.Request())
        return {"success": answer.success, "message": answer.message, "seconds": time.monotonic() - begin_s}

    def set(self, **values: Any) -> bool:
        """Sets parameters; an underscore twice stands for the dot in their names."""
        if not self._settings.wait_for_services(LIMIT_S):
            raise TimeoutError("the node has no parameter services")
        changed = [Parameter(name.replace("__", "."), value=value) for name, value in values.items()]
        answer = self._wait(self._settings.set_parameters(changed))
        return all(result.successful for result in answer.results)

    def play(self, **what: Any) -> bool:
        """From now on, plays cameras and joints: `names`, `positions`, `late_s`, `camera` (raw, jpeg or none)."""
        self._played = what
        return True

    def prompt(self, text: str) -> bool:
        self._prompts.publish(String(data=text))
        return True

    def trajectories(self, more_than: int, limit_s: float = LIMIT_S) -> list[dict[str, Any]]:
        """All that came, once there are more than a number or the time is over."""
        self._until(lambda: len(self._trajectories) > more_than, limit_s)
        return self._trajectories

    def diagnosis(self, containing: str, limit_s: float = LIMIT_S) -> dict[str, Any]:
        """The newest diagnosis from now on, once its message contains a text or the time is over."""
        self._diagnosis = {}
        self._until(lambda: containing in self._diagnosis.get("message", ""), limit_s)
        return self._diagnosis

    def _call(self, client: Any, request: Any) -> Any:
        if not client.wait_for_service(LIMIT_S):
            raise TimeoutError(f"there is no service {client.srv_name}")
        return self._wait(client.call_async(request))

    def _wait(self, future: Any) -> Any:
        self._until(future.done, LIMIT_S)
        if not future.done():
            raise TimeoutError("no answer")
        return future.result()

    def _until(self, holds: Any, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not holds() and time.monotonic() < deadline:
            time.sleep(0.005)

    def _play(self) -> None:
        played = self._played
        if not played:
            return
        stamp = self.get_clock().now() - rclpy.duration.Duration(seconds=played.get("late_s", 0.0))
        joints = JointState(name=played["names"], position=[float(value) for value in played["positions"]])
        joints.header.stamp = self.get_clock().now().to_msg()
        self._joints.publish(joints)
        if played["camera"] == "raw":
            image = Image(height=48, width=64, encoding="bgr8", step=64 * 3)
            image.data = array.array("B", bytes(48 * 64 * 3))
            image.header.stamp = stamp.to_msg()
            self._images.publish(image)
        elif played["camera"] == "jpeg":
            image = CompressedImage(format="rgb8; jpeg compressed bgr8")
            image.data = array.array("B", bytes.fromhex(played["jpeg"]))
            image.header.stamp = stamp.to_msg()
            self._compressed.publish(image)

    def _take(self, message: Any) -> None:
        times = [point.time_from_start for point in message.points]
        self._trajectories.append(
            {
                "joints": list(message.joint_names),
                "stamp_ns": message.header.stamp.sec * 10**9 + message.header.stamp.nanosec,
                "came_ns": self.get_clock().now().nanoseconds,
                "after_ns": [time.sec * 10**9 + time.nanosec for time in times],
                "positions": [list(point.positions) for point in message.points],
            }
        )

    def _take_diagnosis(self, message: Any) -> None:
        for status in message.status:
            values = {value.key: value.value for value in status.values}
            self._diagnosis = {"level": status.level[0], "message": status.message, **values}


def main() -> None:
    rclpy.init()
    peer = Peer(sys.argv[1])
    executor = MultiThreadedExecutor(4)
    executor.add_node(peer)
    threading.Thread(target=executor.spin, daemon=True).start()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"answer": getattr(peer, asked.pop("do"))(**asked)}
        except TimeoutError as error:
            answer = {"timeout": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    executor.shutdown()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
