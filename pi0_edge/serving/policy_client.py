"""Asks a policy server; runs without torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pi0_edge.errors import BusyError, DeadlineError, ObservationError, Pi0EdgeError, ServingError
from pi0_edge.protos import policy_pb2, policy_pb2_grpc
from pi0_edge.protos.rpc.message_sizes import is_answer, too_large
from pi0_edge.protos.rpc.tls import connection_advice, open_channel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pi0_edge.processing import Observation

SERVICE = policy_pb2.DESCRIPTOR.services_by_name["PolicyService"].full_name
_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", 4 << 20),
    # A server that is still loading its weights is tried again soon, not after gRPC's twenty seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # In spite of its name, how long one attempt may take: TCP, TLS and the first frames, over whatever link there is.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.enable_http_proxy", 0),
    # A connection per client, also in one process: the server tells robots apart by it.
    ("grpc.use_local_subchannel_pool", 1),
]
_ERRORS = {
    grpc.StatusCode.INVALID_ARGUMENT: ObservationError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: BusyError,
}


class PolicyClient:
    """A connection to one policy server; also a context manager."""

    def __init__(
        self, address: str, timeout_s: float = 30.0, tls: Path | None = None, jpeg_quality: int | None = None
    ) -> None:
        """Connects at the first call.

        Args:
            address: host:port.
            timeout_s: Deadline of every call.
            tls: Folder with authority, certificate and key, where the server asks for a certificate.
            jpeg_quality: Sends images as JPEG of this quality, 1 to 100, which changes what the policy sees; as they
                are where None.

        Raises:
            EndpointError: If something is wrong with that folder.
            ConfigError: If the quality is not possible.
            MissingDependencyError: If images shall be JPEG and Pillow is not installed.
        """
        if jpeg_quality is not None:
            from pi0_edge.serving.jpeg_images import check_jpeg_quality

            check_jpeg_quality(jpeg_quality)
        self.address = address
        self._jpeg_quality = jpeg_quality
        self._timeout_s = timeout_s
        self._channel = open_channel(address, tls, _CHANNEL_OPTIONS)
        self._policy = policy_pb2_grpc.PolicyServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def __enter__(self) -> PolicyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def wait_ready(self, timeout_s: float) -> None:
        """Returns when the server answers observations.

        Raises:
            ServingError: If it does not within `timeout_s` seconds.
        """
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        with self._calls():
            check = self._health.Check  # pyright: ignore[reportAttributeAccessIssue]
            reply = check(request, timeout=timeout_s, wait_for_ready=True)
        if reply.status != health_pb2.HealthCheckResponse.SERVING:
            raise ServingError(f"the policy server at {self.address} is shutting down; start it again")

    def metadata(self) -> policy_pb2.PolicyMetadata:
        """What the policy is and expects.

        Raises:
            ServingError: If the server does not answer.
        """
        with self._calls():
            return self._policy.GetMetadata(policy_pb2.MetadataRequest(), timeout=self._timeout_s)

    def infer(
        self,
        observation: Observation,
        tick: int,
        capture_time_ns: int,
        noise_seed: int | None = None,
        continuation: policy_pb2.Continuation | None = None,
    ) -> policy_pb2.Chunk:
        """Asks for a chunk.

        Args:
            observation: Images, joint state and prompt.
            tick: Firmware tick whose executed setpoint the observation shows.
            capture_time_ns: When it was taken, host monotonic clock.
            noise_seed: Fixes the initial noise.
            continuation: What the arm executes meanwhile; the chunk then continues it.

        Raises:
            ObservationError: If the server refuses the observation, or it is larger than the server takes.
            BusyError: If too many others wait already.
            DeadlineError: If there was no chunk within the client's deadline.
            ServingError: If the server cannot be reached or failed.
        """
        message = write_observation(observation, tick, capture_time_ns, noise_seed, continuation, self._jpeg_quality)
        with self._calls():
            return self._policy.Infer(message, timeout=self._timeout_s)

    @contextmanager
    def _calls(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            code = error.code()  # pyright: ignore[reportAttributeAccessIssue]
            details = str(error.details())  # pyright: ignore[reportAttributeAccessIssue]
            raise _translated(code, details, self.address) from error


def write_observation(
    observation: Observation,
    tick: int,
    capture_time_ns: int,
    noise_seed: int | None,
    continuation: policy_pb2.Continuation | None = None,
    jpeg_quality: int | None = None,
) -> policy_pb2.Observation:
    """The request for an observation, whose checks are the server's; images are JPEG where a quality is given."""
    message = policy_pb2.Observation(
        state=np.asarray(observation.state, np.float32).ravel().tolist(),
        prompt=observation.prompt or "",
        clock=policy_pb2.ObservationClock(tick=tick, capture_time_ns=capture_time_ns),
        noise_seed=noise_seed,
        continuation=continuation,
    )
    for camera, image in observation.images.items():  # made inside of the message, which else copies their pixels
        _write_image(message.images.add(), camera, image, jpeg_quality)
    return message


def _write_image(written: policy_pb2.Image, camera: str, image: NDArray[np.uint8], jpeg_quality: int | None) -> None:
    written.camera = camera
    written.height, written.width = image.shape[:2]
    if jpeg_quality is None:
        written.rgb = image.tobytes()
        return
    from pi0_edge.serving.jpeg_images import encode_jpeg

    written.jpeg = encode_jpeg(image, jpeg_quality)


def _translated(code: grpc.StatusCode, details: str, address: str) -> Pi0EdgeError:
    """The error for a failed call."""
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED and (size := too_large(details)):
        return _of_size(size, is_answer(details), address)
    if code == grpc.StatusCode.UNAVAILABLE and (advice := connection_advice(details)):
        return ServingError(f"the policy server at {address} accepts no connection: {advice}")
    if code == grpc.StatusCode.UNAVAILABLE:
        return ServingError(f"no policy server answers at {address} ({details}); start one with `pi0-edge serve`")
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineError(f"the policy server at {address} did not answer in time ({details}); is it running?")
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return ServingError(
            f"the server at {address} does not know this call ({details}); it may be an older policy server, or no "
            "policy server: see `pi0-edge serve`"
        )
    return _ERRORS.get(code, ServingError)(details)


def _of_size(size: str, of_answer: bool, address: str) -> Pi0EdgeError:
    """The error for a message that is too large, however often it is sent."""
    if of_answer:
        return ServingError(f"the answer of the server at {address} has {size}; is it a policy server of this version?")
    return ObservationError(
        f"the observation has {size}, which is the limit of the policy server at {address}; scale its images down, as "
        "the policy does anyway, or send them as JPEG"
    )
