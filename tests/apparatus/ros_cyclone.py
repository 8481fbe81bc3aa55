"""A robot that speaks ROS 2's wire without ROS, by another vendor's DDS: Eclipse Cyclone DDS. A program of its own.

Called with the domain, the number of trajectories to wait for, and the names of the joints. It plays a camera and joint
states, waits for trajectories, and prints the last one as JSON. The types are those of the messages of ROS 2, by their
names on the wire.
"""

# pyright: reportMissingImports=false, reportGeneralTypeIssues=false, reportCallIssue=false
# cyclonedds comes from the ROS environment.

from dataclasses import dataclass
from json import dumps
from sys import argv
from time import monotonic, sleep, time_ns

from cyclonedds.core import Policy, Qos
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import float64, int32, sequence, uint8, uint32
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration

LOOPBACK = """<CycloneDDS><Domain><General><Interfaces><NetworkInterface name="lo" multicast="true"/></Interfaces>
<AllowMulticast>true</AllowMulticast></General><Discovery><ParticipantIndex>auto</ParticipantIndex>
<Peers><Peer address="127.0.0.1"/></Peers></Discovery></Domain></CycloneDDS>"""
LIMIT_S = 40.0


@dataclass
class Time(IdlStruct, typename="builtin_interfaces::msg::dds_::Time_"):
    sec: int32
    nanosec: uint32


@dataclass
class Duration(IdlStruct, typename="builtin_interfaces::msg::dds_::Duration_"):
    sec: int32
    nanosec: uint32


@dataclass
class Header(IdlStruct, typename="std_msgs::msg::dds_::Header_"):
    stamp: Time
    frame_id: str


@dataclass
class JointState(IdlStruct, typename="sensor_msgs::msg::dds_::JointState_"):
    header: Header
    name: sequence[str]
    position: sequence[float64]
    velocity: sequence[float64]
    effort: sequence[float64]


@dataclass
class Image(IdlStruct, typename="sensor_msgs::msg::dds_::Image_"):
    header: Header
    height: uint32
    width: uint32
    encoding: str
    is_bigendian: uint8
    step: uint32
    data: sequence[uint8]


@dataclass
class JointTrajectoryPoint(IdlStruct, typename="trajectory_msgs::msg::dds_::JointTrajectoryPoint_"):
    positions: sequence[float64]
    velocities: sequence[float64]
    accelerations: sequence[float64]
    effort: sequence[float64]
    time_from_start: Duration


@dataclass
class JointTrajectory(IdlStruct, typename="trajectory_msgs::msg::dds_::JointTrajectory_"):
    header: Header
    joint_names: sequence[str]
    points: sequence[JointTrajectoryPoint]


def main() -> None:
    number, wanted, names = int(argv[1]), int(argv[2]), argv[3].split(",")
    domain = Domain(number, LOOPBACK)
    participant = DomainParticipant(number)
    encoded = Policy.DataRepresentation(use_cdrv0_representation=True)
    reliable = Qos(encoded, Policy.Reliability.Reliable(duration(seconds=1)), Policy.History.KeepLast(5))
    loose = Qos(encoded, Policy.Reliability.BestEffort, Policy.History.KeepLast(5))
    images = DataWriter(participant, Topic(participant, "rt/top/image_raw", Image), loose)
    joints = DataWriter(participant, Topic(participant, "rt/joint_states", JointState), reliable)
    topic = Topic(participant, "rt/joint_trajectory_controller/joint_trajectory", JointTrajectory)
    reader = DataReader(participant, topic, reliable)
    came: list[JointTrajectory] = []
    deadline = monotonic() + LIMIT_S
    while len(came) < wanted and monotonic() < deadline:
        header = Header(Time(*divmod(time_ns(), 10**9)), "")
        joints.write(JointState(header, names, [0.1 * place for place in range(len(names))], [], []))
        images.write(Image(header, 24, 32, "rgb8", 0, 96, bytes(24 * 96)))
        came += reader.take(10)
        sleep(0.02)
    after = [point.time_from_start.sec * 10**9 + point.time_from_start.nanosec for point in came[-1].points]
    lengths = [len(point.positions) for point in came[-1].points]
    print(dumps({"came": len(came), "joints": came[-1].joint_names, "after_ns": after, "lengths": lengths}))
    del reader, joints, images, participant, domain


if __name__ == "__main__":
    main()
