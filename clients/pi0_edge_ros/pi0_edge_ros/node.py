"""The lifecycle node: topics, services and parameters around a `Session`.

    unconfigured ── configure: connect, compare policy and joints ──► inactive
    inactive ─────── activate: chunks are sent ─────────────────────► active
    active ───────── deactivate, e-stop, errors ────────────────────► inactive (the arm executes what it has, and holds)

Four groups of callbacks run beside each other: the transitions, the messages, the timer that observes, and the e-stop.
None of them waits for an inference.
"""

# pyright: reportMissingImports=false
# rclpy and the messages come from the ROS distribution.

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from pi0_edge.errors import ObservationError, Pi0EdgeError
from pi0_edge.serving.policy_client import PolicyClient
from pi0_edge_ros.agreement import agree
from pi0_edge_ros.diagnostics import diagnose
from pi0_edge_ros.emergency_stop import Answer, EmergencyStop
from pi0_edge_ros.session import Session
from pi0_edge_ros.settings import CAMERA_PARAMETERS, PARAMETERS, Camera, camera_names, read_settings
from pi0_edge_ros.trajectories import MessageClasses

COMMANDS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
PROMPTS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
DIAGNOSTICS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)

_WATCH_S = 0.05
_DIAGNOSE_S = 1.0
_LOG_EVERY_S = 5.0
_THREADS = 6


class PolicyNode(LifecycleNode):
    """`pi0_edge_policy`: asks a policy server and publishes its chunks as joint trajectories."""

    def __init__(self, **arguments: Any) -> None:
        """Declares the parameters; connects nothing.

        Args:
            arguments: Of `rclpy.node.Node`.
        """
        super().__init__("pi0_edge_policy", **arguments)
        for parameter in PARAMETERS:
            self._declare(parameter.name, parameter.default)
        self._declare_cameras()
        self._session: Session | None = None
        self._client: PolicyClient | None = None
        self._emergency: EmergencyStop | None = None
        self._made: list[tuple[Any, Any]] = []
        self._is_active = False
        self._stopped = ""
        self._messages = MutuallyExclusiveCallbackGroup()
        self._observing = MutuallyExclusiveCallbackGroup()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        # The transitions of rclpy run in the node's default group: one that the node begins itself must too.
        self.create_timer(_WATCH_S, self._watch, clock=steady)
        apart = MutuallyExclusiveCallbackGroup()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", DIAGNOSTICS)
        self.create_timer(_DIAGNOSE_S, self._diagnose, callback_group=apart, clock=steady)
        self.create_service(Trigger, "~/estop", self._estop, callback_group=MutuallyExclusiveCallbackGroup())

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Connects, and compares the policy with the parameters; stays unconfigured where they do not fit."""
        self._stopped = ""
        try:
            self._configure()
        except Pi0EdgeError as error:
            self._release()
            return self._refuse(str(error))
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begins to send chunks; stays inactive while the bridge is stopped."""
        self._stopped = ""
        session = self._session
        if session is None:
            return self._refuse("the node is not configured")
        try:
            latched = self._emergency.latched() if self._emergency else ""
        except Pi0EdgeError as error:
            return self._refuse(str(error))
        if latched:
            return self._refuse(f"the bridge is in {latched}; clear it first, once the robot is safe")
        activated = super().on_activate(state)
        if activated != TransitionCallbackReturn.SUCCESS:
            return activated
        self._is_active = True
        session.start()
        if self._stopped:  # an e-stop came meanwhile
            session.stop()
        return activated

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Sends nothing any more."""
        self._is_active = False
        if self._session is not None:
            self._session.stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Ends all connections."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As cleanup."""
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After an error inside a transition: as cleanup."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Ends all connections and the node."""
        self._release()
        super().destroy_node()

    def _configure(self) -> None:
        self._declare_cameras()
        settings = read_settings(self._value)
        client = PolicyClient(settings.server, settings.infer_timeout_s, settings.server_tls, settings.jpeg_quality)
        self._client = client
        client.wait_ready(settings.connect_timeout_s)
        metadata = client.metadata()
        agreement = agree(settings, metadata)
        self._emergency = EmergencyStop(settings.bridge, settings.bridge_tls)
        self._emergency.check(metadata.action_names)
        for warning in agreement.warnings:
            self.get_logger().warning(warning)
        trajectories = self.create_lifecycle_publisher(JointTrajectory, settings.trajectory_topic, COMMANDS)
        self._made.append((self.destroy_publisher, trajectories))
        classes = MessageClasses(JointTrajectory, JointTrajectoryPoint)
        session = Session(settings, agreement, client, classes, trajectories.publish, self._now_ns)
        self._session = session
        self._listen(JointState, settings.joint_states_topic, session.inbox.take_joints, qos_profile_sensor_data)
        self._listen(String, settings.prompt_topic, self._take_prompt, PROMPTS)
        for camera in settings.cameras:
            self._listen_to_camera(camera, session)
        timer = self.create_timer(1 / agreement.control_hz, session.step, callback_group=self._observing)
        self._made.append((self.destroy_timer, timer))
        self.get_logger().info(
            f"policy at {settings.server}: {metadata.model}, {metadata.scheme}, chunks of {metadata.horizon} actions "
            f"at {agreement.control_hz:g} Hz, spliced by {agreement.splice.name}; joints {', '.join(agreement.joints)}"
        )

    def _release(self) -> None:
        self._is_active = False
        session, self._session = self._session, None
        if session is not None:
            session.stop()
        for destroy, made in reversed(self._made):
            destroy(made)
        self._made.clear()
        if self._client is not None:
            self._client.close()  # ends an inference that runs
            self._client = None
        if session is not None:
            session.close()
        emergency, self._emergency = self._emergency, None
        if emergency is not None:
            emergency.close()

    def _listen(self, kind: type, topic: str, take: Any, quality: QoSProfile) -> None:
        made = self.create_subscription(kind, topic, take, quality, callback_group=self._messages)
        self._made.append((self.destroy_subscription, made))

    def _listen_to_camera(self, camera: Camera, session: Session) -> None:
        kind = CompressedImage if camera.compressed else Image

        def take(message: Any) -> None:
            session.inbox.take_image(camera.name, message)

        self._listen(kind, camera.topic, take, qos_profile_sensor_data)

    def _take_prompt(self, message: Any) -> None:
        session = self._session
        if session is None:
            return
        try:
            session.inbox.take_prompt(message.data)
        except ObservationError as error:
            self.get_logger().warning(str(error))

    def _estop(self, request: Any, response: Any) -> Any:
        """Service: stops the arm through the bridge, and this node; never waits for an inference."""
        self._stopped = "the emergency stop was asked for"
        session, emergency = self._session, self._emergency
        if session is not None:
            session.stop()
        answer = self._latch(emergency)
        self.get_logger().error(f"emergency stop: {answer.message}")
        response.success, response.message = answer.stopped, answer.message
        return response

    def _latch(self, emergency: EmergencyStop | None) -> Answer:
        if emergency is not None:
            return emergency.latch("the e-stop service of the ROS 2 node")
        # Not configured: the bridge is asked all the same.
        tls = self._value("bridge_tls")
        try:
            made = EmergencyStop(self._value("bridge"), Path(tls) if tls else None)
        except Pi0EdgeError as error:
            return Answer(False, f"the bridge was not asked: {error}")
        with contextlib.closing(made):
            return made.latch("the e-stop service of the ROS 2 node")

    def _watch(self) -> None:
        """Goes to inactive after an e-stop or too many errors, and says what is wrong."""
        session = self._session
        if session is None or not self._is_active:
            return
        if session.gave_up:
            self._stopped = session.gave_up
        if self._stopped:
            self.get_logger().error(f"to inactive: {self._stopped}")
            self.trigger_deactivate()
        elif session.problem:
            self.get_logger().warning(session.problem, throttle_duration_sec=_LOG_EVERY_S)

    def _diagnose(self) -> None:
        diagnosis = diagnose(self._session, self._value("server"), self._stopped)
        status = DiagnosticStatus(level=diagnosis.level, name=f"{self.get_name()}: policy", message=diagnosis.message)
        status.values = [KeyValue(key=key, value=value) for key, value in diagnosis.values.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _refuse(self, why: str) -> TransitionCallbackReturn:
        self._stopped = why
        self.get_logger().error(why)
        return TransitionCallbackReturn.FAILURE

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _declare_cameras(self) -> None:
        for camera in camera_names(self._value("cameras")):
            for parameter in CAMERA_PARAMETERS:
                self._declare(f"camera.{camera}.{parameter.name}", parameter.default)

    def _declare(self, name: str, default: Any) -> None:
        if not self.has_parameter(name):
            self.declare_parameter(name, default)


def main(arguments: list[str] | None = None) -> None:
    """Runs the node until it is shut down.

    Args:
        arguments: Of ROS; those of the command line where None.
    """
    rclpy.init(args=arguments)
    node = PolicyNode()
    executor = MultiThreadedExecutor(_THREADS)
    executor.add_node(node)
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
