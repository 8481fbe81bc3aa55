"""Where chunks come from: a policy in this process, or a policy server. Both look the same to a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import Pi0EdgeError, ServingError
from pi0_edge.protos import policy_pb2
from pi0_edge.run.events import Observed
from pi0_edge.serving.policy_client import PolicyClient

if TYPE_CHECKING:
    from pi0_edge.policy import Policy

INFER_LIMIT_S = 5.0
"""A chunk that takes longer is lost: its last action is past due long before."""


class PolicySource(Protocol):
    """Answers observations with chunks. One call at a time, from any thread.

    Attributes:
        name: What it is, in words.
        place: Where it is served or was loaded from: address or folder; empty where that is not known.
        threads: CPU threads of its network; None where it runs in another process.
        image_encoding: How images reach it: `raw`, or lossy in words.
    """

    name: str
    place: str
    threads: int | None
    image_encoding: str

    def metadata(self) -> policy_pb2.PolicyMetadata:
        """What the policy is and expects.

        Raises:
            ServingError: It does not answer.
        """
        ...

    def infer(self, observed: Observed) -> policy_pb2.Chunk:
        """The chunk that answers an observation.

        Raises:
            ObservationError: The policy refuses the observation.
            ServingError: It does not answer.
        """
        ...

    def close(self) -> None:
        """Ends what the source began."""
        ...


class _Shown(NamedTuple):
    """What `pi0_edge.processing.Observation` holds, without torch."""

    images: dict[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    prompt: str


class ServedPolicy:
    """A policy server; needs no torch here."""

    def __init__(
        self,
        address: str,
        tls: Path | None = None,
        timeout_s: float = INFER_LIMIT_S,
        jpeg_quality: int | None = None,
    ) -> None:
        """Connects at the first call.

        Args:
            address: host:port.
            tls: Folder with authority, certificate and key, where the server asks for a certificate.
            timeout_s: Deadline of every call.
            jpeg_quality: Images cross the network as JPEG of this quality, 1 to 100; raw where None.

        Raises:
            EndpointError: Something is wrong with that folder.
            ConfigError: There is no such quality.
        """
        self.name, self.place = f"policy server at {address}", address
        self.threads: int | None = None
        self.image_encoding = "raw" if jpeg_quality is None else f"JPEG of quality {jpeg_quality}"
        self._client = PolicyClient(address, timeout_s, tls, jpeg_quality=jpeg_quality)

    def metadata(self) -> policy_pb2.PolicyMetadata:
        """As `PolicySource.metadata`."""
        return self._client.metadata()

    def infer(self, observed: Observed) -> policy_pb2.Chunk:
        """As `PolicySource.infer`."""
        shown: Any = _Shown(_pixels(observed), observed.state, observed.prompt)
        return self._client.infer(
            shown, observed.tick, observed.time_ns, noise_seed=observed.noise_seed, continuation=observed.continuation
        )

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()


class LocalPolicy:
    """A policy in this process."""

    def __init__(self, policy: Policy, place: str = "") -> None:
        """Takes a loaded policy.

        Args:
            policy: The policy.
            place: Folder of its checkpoint or bundle; that of its bundle where empty.
        """
        import torch

        self.name = f"policy in this process, engine {policy.engine.name}"
        self.place = place or ("" if policy.bundle is None else str(policy.bundle.folder))
        self.threads: int | None = torch.get_num_threads()
        self.image_encoding = "raw"
        self._policy = policy

    def metadata(self) -> policy_pb2.PolicyMetadata:
        """As `PolicySource.metadata`."""
        from pi0_edge.serving.messages import describe_policy

        return describe_policy(self._policy)

    def infer(self, observed: Observed) -> policy_pb2.Chunk:
        """As `PolicySource.infer`.

        Raises:
            ConfigError: The checkpoint was not trained to continue a plan in this way.
        """
        from pi0_edge.processing import Observation
        from pi0_edge.serving.messages import read_plan, write_chunk

        robot = self._policy.processor.robot
        continued = observed.continuation
        plan = None if continued is None else read_plan(continued, robot.action_dim)
        observation = Observation(_pixels(observed), observed.state, observed.prompt or None)
        chunk = self._policy.infer(observation, observed.noise_seed, plan)
        clock = policy_pb2.ObservationClock(tick=observed.tick, capture_time_ns=observed.time_ns)
        return write_chunk(chunk, clock, self._policy.overrides)

    def close(self) -> None:
        """Nothing: whoever loaded the policy keeps it."""


def policy_source(policy: PolicySource | Policy | str, tls: Path | None = None) -> PolicySource:
    """The source for what a user has: the address of a server, a loaded policy, or a source already.

    Args:
        policy: host:port, a policy, or anything with the methods of `PolicySource`.
        tls: For a server that asks for a certificate.
    """
    if isinstance(policy, str):
        return ServedPolicy(policy, tls)
    if hasattr(policy, "processor"):
        return LocalPolicy(cast("Policy", policy))
    return cast("PolicySource", policy)


def is_here(policy: PolicySource) -> bool:
    """Whether a policy runs on this computer: in this process, or behind an address of its own."""
    if not isinstance(policy, ServedPolicy):
        return True
    host = policy.place.rpartition(":")[0].strip("[]")
    return host == "localhost" or host == "::1" or host.startswith("127.")


def is_refusal(error: Exception) -> bool:
    """Whether an error of a policy says that asking again is no use."""
    return isinstance(error, Pi0EdgeError) and not isinstance(error, ServingError)


def _pixels(observed: Observed) -> dict[str, NDArray[np.uint8]]:
    return {camera: image.pixels for camera, image in observed.images.items()}
