"""How a bench asks a policy server: over gRPC, or over openpi's websocket as openpi's robots do.

openpi's own client is not needed: the messages are written as it writes them, and one map more fixes the noise.
"""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ObservationError, ServingError
from pi0_edge.processing import Observation
from pi0_edge.protos.rpc.tls_files import AUTHORITY_FILE, read_tls_folder
from pi0_edge.serving.policy_client import PolicyClient

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

ServedProtocol = Literal["grpc", "openpi"]
"""What a policy server is asked with."""

_LARGEST_REPLY = 4 << 20
_CONNECT_S = 10.0
_TRIES_EVERY_S = 0.1


class ServedChunk(NamedTuple):
    """What a policy server answers.

    Attributes:
        actions: float64 [rows, action_dim], in physical units.
        preprocess_ms: Observation to model inputs.
        infer_ms: Model inputs to normalized actions.
        postprocess_ms: Normalized actions to physical units.
    """

    actions: NDArray[np.float64]
    preprocess_ms: float
    infer_ms: float
    postprocess_ms: float


class ServedPolicy(NamedTuple):
    """What a policy server says that it serves.

    Attributes:
        bundle_sha256: Of the bundle's manifest; empty where it is a checkpoint.
        engine: What runs it.
        scheme: How it is quantized.
        overrides: Rules that the server's user overrode by name.
        trained_delay: Longest frozen prefix that the policy was trained with, in actions.
    """

    bundle_sha256: str
    engine: str
    scheme: str
    overrides: tuple[str, ...]
    trained_delay: int


class ServedClient(Protocol):
    """A connection to a policy server.

    Attributes:
        address: host:port.
        protocol: What it speaks.
    """

    address: str
    protocol: ServedProtocol

    def connect(self, timeout_s: float) -> ServedPolicy:
        """Waits until the server answers, and returns what it serves.

        Raises:
            ServingError: If it does not within `timeout_s` seconds.
        """
        ...

    def infer(self, observation: Observation, noise_seed: int) -> ServedChunk:
        """Asks for a chunk.

        Raises:
            Pi0EdgeError: If the server refuses the observation, fails or does not answer.
        """
        ...

    def close(self) -> None:
        """Ends the connection."""


class GrpcClient:
    """A `ServedClient` of this SDK's own protocol."""

    protocol: ServedProtocol = "grpc"

    def __init__(self, address: str, timeout_s: float, tls: Path | None = None) -> None:
        """Connects at the first call; arguments as those of `PolicyClient`."""
        self.address = address
        self._client = PolicyClient(address, timeout_s, tls)

    def connect(self, timeout_s: float) -> ServedPolicy:
        """As `ServedClient.connect`."""
        self._client.wait_ready(timeout_s)
        found = self._client.metadata()
        return ServedPolicy(
            found.bundle_sha256, found.engine, found.scheme, tuple(found.overrides), found.trained_delay
        )

    def infer(self, observation: Observation, noise_seed: int) -> ServedChunk:
        """As `ServedClient.infer`."""
        answer = self._client.infer(observation, 0, time.monotonic_ns(), noise_seed)
        actions = np.array(answer.actions, np.float64).reshape(answer.horizon, answer.action_dim)
        timing = answer.timing
        return ServedChunk(actions, timing.preprocess_ms, timing.infer_ms, timing.postprocess_ms)

    def close(self) -> None:
        """As `ServedClient.close`."""
        self._client.close()


class OpenpiClient:
    """A `ServedClient` of openpi's websocket protocol, which needs the extra `openpi`."""

    protocol: ServedProtocol = "openpi"

    def __init__(self, address: str, timeout_s: float, tls: Path | None = None, api_key: Path | None = None) -> None:
        """Prepares a connection.

        Args:
            address: host:port.
            timeout_s: Longest time to wait for a chunk.
            tls: Folder whose authority signed the server's certificate; None does not encrypt.
            api_key: File with the key that the server asks for.

        Raises:
            EndpointError: If something is wrong with the folder or the file.
        """
        from pi0_edge.serving.openpi.access import read_api_key

        self.address = address
        self._timeout_s = timeout_s
        self._tls = None
        if tls is not None:
            read_tls_folder(tls)
            self._tls = ssl.create_default_context(cafile=str(tls / AUTHORITY_FILE))
        self._headers = {} if api_key is None else {"Authorization": f"Api-Key {read_api_key(api_key)}"}
        self._stack = ExitStack()
        self._connection: ClientConnection | None = None

    def connect(self, timeout_s: float) -> ServedPolicy:
        """As `ServedClient.connect`."""
        until = time.monotonic() + timeout_s
        while self._connection is None:
            try:
                self._connection = self._open()
            except OSError as error:
                if time.monotonic() > until:
                    advice = "start one with `pi0-edge serve --openpi PORT`"
                    raise ServingError(f"no openpi server answers at {self.address} ({error}); {advice}") from error
                time.sleep(_TRIES_EVERY_S)
        found = self._received(self._connection, timeout_s)
        try:
            return ServedPolicy(
                str(found["bundle_sha256"]),
                str(found["engine"]),
                str(found["scheme"]),
                tuple(map(str, found["overrides"])),
                int(found["trained_delay"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ServingError(
                f"the openpi server at {self.address} does not say which bundle it serves ({error!r}); expected one "
                "of `pi0-edge serve --openpi PORT`"
            ) from error

    def infer(self, observation: Observation, noise_seed: int) -> ServedChunk:
        """As `ServedClient.infer`."""
        from websockets.exceptions import ConnectionClosed

        from pi0_edge.serving.openpi.encoding import encode

        if self._connection is None:
            raise ServingError(f"the openpi server at {self.address} is not connected; call connect before infer")
        message = {
            "images": dict(observation.images),
            "state": np.asarray(observation.state, np.float64),
            "noise_seed": int(noise_seed),
        }
        if observation.prompt:
            message["prompt"] = observation.prompt
        try:
            self._connection.send(encode(message))
        except ConnectionClosed as error:
            raise ServingError(f"the openpi server at {self.address} has closed the connection ({error})") from error
        found = self._received(self._connection, self._timeout_s)
        try:
            timing = found["policy_timing"]
            times = [float(timing[name]) for name in ("preprocess_ms", "infer_ms", "postprocess_ms")]
            return ServedChunk(np.array(found["actions"], np.float64), *times)
        except (KeyError, TypeError, ValueError) as error:
            raise ServingError(
                f"the openpi server at {self.address} answers without actions and times ({error!r}); expected those of "
                "`pi0-edge serve --openpi PORT`"
            ) from error

    def close(self) -> None:
        """As `ServedClient.close`."""
        self._stack.close()
        self._connection = None

    def _open(self) -> ClientConnection:
        from websockets.exceptions import InvalidHandshake
        from websockets.sync.client import connect

        host, _, port = self.address.rpartition(":")
        # A socket of our own: connections of websockets 15 and later may else go through a proxy, loopback too.
        own = socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S)
        own.settimeout(None)
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            opened = connect(
                f"{'ws' if self._tls is None else 'wss'}://{self.address}",
                sock=own,
                ssl=self._tls,
                compression=None,
                max_size=_LARGEST_REPLY,
                additional_headers=self._headers,
                open_timeout=_CONNECT_S,
            )
            return self._stack.enter_context(opened)
        except InvalidHandshake as error:
            own.close()
            raise ServingError(
                f"the openpi server at {self.address} refuses the connection ({error}); where it asks for a key, give "
                "--openpi-api-key"
            ) from error
        except ssl.SSLError as error:
            own.close()
            raise ServingError(
                f"the openpi server at {self.address} cannot be trusted ({error}); give the --tls folder of its "
                "authority"
            ) from error

    def _received(self, connection: ClientConnection, timeout_s: float) -> dict[str, Any]:
        """The next message, a map."""
        from websockets.exceptions import ConnectionClosed

        from pi0_edge.serving.openpi.encoding import decode

        try:
            message = connection.recv(timeout_s)
        except TimeoutError as error:
            raise ServingError(f"the openpi server at {self.address} did not answer in {timeout_s:g} s") from error
        except ConnectionClosed as error:
            raise ServingError(f"the openpi server at {self.address} has closed the connection ({error})") from error
        if isinstance(message, str):
            raise ObservationError(f"the openpi server at {self.address} refuses the observation: {message}")
        found = decode(message)
        if not isinstance(found, dict):
            raise ServingError(f"the server at {self.address} sends a {type(found).__name__}; expected openpi's maps")
        return found
