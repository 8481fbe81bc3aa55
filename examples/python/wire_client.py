"""A client from nothing but the `.proto` files: one observation, one chunk; with a bridge, the chunk is played.

python -m grpc_tools.protoc -I. --include_imports --descriptor_set_out=wire.desc pi0_edge/protos/bridge.proto
python wire_client.py wire.desc 127.0.0.1:50051 [127.0.0.1:50061]

It needs grpcio and protobuf, and nothing of pi0-edge.
"""

import sys
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

pool = descriptor_pool.DescriptorPool()
for file in descriptor_pb2.FileDescriptorSet.FromString(Path(sys.argv[1]).read_bytes()).file:
    pool.Add(file)


def new(name: str, **fields: Any) -> Any:
    """A message of pi0_edge.v1."""
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"pi0_edge.v1.{name}"))(**fields)


def call(channel: grpc.Channel, method: str, request: Any, timeout_s: float = 5.0) -> Any:
    """The answer of a method such as PolicyService/Infer; of a stream of answers the first."""
    described = pool.FindServiceByName(f"pi0_edge.v1.{method.split('/')[0]}").FindMethodByName(method.split("/")[1])
    kinds = ("unary", "stream")
    open_call = getattr(channel, f"{kinds[described.client_streaming]}_{kinds[described.server_streaming]}")
    read = message_factory.GetMessageClass(described.output_type).FromString
    bound = open_call(f"/pi0_edge.v1.{method}", type(request).SerializeToString, read)
    answer = bound(iter([request]) if described.client_streaming else request, timeout=timeout_s)
    return next(answer) if described.server_streaming else answer


policy = grpc.insecure_channel(sys.argv[2])
about = call(policy, "PolicyService/GetMetadata", new("MetadataRequest"))
print(f"{about.model}: chunks of {about.horizon} x {about.action_dim}, cameras {', '.join(about.cameras)}")
image = new("Image", camera=about.cameras[0], height=480, width=640, rgb=bytes(480 * 640 * 3))
state, tick = [0.0] * about.state_dim, 0
bridge = grpc.insecure_channel(sys.argv[3]) if len(sys.argv) > 3 else None
if bridge:  # the observation shows what the arm has executed at this tick
    telemetry = call(bridge, "RobotBridge/WatchTelemetry", new("TelemetryRequest"))
    state, tick = telemetry.measured or telemetry.executed, telemetry.tick
clock = new("ObservationClock", tick=tick)
observation = new("Observation", images=[image], state=state, prompt=about.default_prompt or "wait", clock=clock)
chunk = call(policy, "PolicyService/Infer", observation, timeout_s=30.0)
print(f"a chunk of {len(chunk.actions)} numbers for tick {chunk.clock.tick}")
if bridge:
    names = about.action_names
    lease = call(bridge, "RobotBridge/Arm", new("ArmRequest", client="my robot", joint_names=names)).lease
    report = call(bridge, "RobotBridge/PlayChunks", new("PlayRequest", lease=lease, chunk=chunk))
    print(f"outcome {report.outcome} {report.reason}".rstrip())
    call(bridge, "RobotBridge/Disarm", new("CommandRequest", lease=lease))
