"""From what a user names to what is timed: bundles, random weights, a server that runs or one that is started."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from pi0_edge.bench.local_server import local_server
from pi0_edge.bench.path.measurement import EMULATED, PathRequest
from pi0_edge.bench.path.target import PathTarget
from pi0_edge.bench.served_clients import GrpcClient, OpenpiClient, ServedClient, ServedProtocol
from pi0_edge.bench.targets import CHUNK_S, RandomTarget, ServedTarget, Target, load_target
from pi0_edge.board.listeners import listening_processes
from pi0_edge.bundle import Bundle, open_bundle
from pi0_edge.errors import BenchError
from pi0_edge.latency.stages import Boundary
from pi0_edge.policy import Policy

_THROUGH_SERVER = (Boundary.SERVED, Boundary.PATH)

_LOOPBACK = ("127.0.0.1", "[::1]", "localhost")

Opened = tuple[Target, Bundle | None]


@dataclass(frozen=True)
class TargetRequest:
    """What is to be timed.

    Attributes:
        bundle: Folder of a bundle; None where the weights are random.
        boundary: Between which points.
        engine: Name in `pi0_edge.engine.ENGINES`.
        threads: CPU threads of the network; torch's default where None.
        against: Folder of another bundle, timed in turns with the first.
        random: `pi0`, `pi05` or `pi0-cube`: random weights of that network, instead of a bundle.
        scheme: How random weights are quantized; the default of the engine where None.
        cameras: That deliver images, with random weights.
        tokens: Of the prompt, with random weights.
        server: host:port of a policy server with the bundle, at the boundary `SERVED`; one is started where None.
        protocol: What a policy server is asked with.
        tls: Folder with certificates for that server.
        api_key: File with the key that an openpi server asks for.
        robot: Robot of the whole path, by name or file; the policy's own where None.
        camera_file: Of the cameras of the whole path; those of the robot, or synthetic images, where None.
        bridge: Address of the bridge of the whole path, or `emulated`, which starts an arm.
        public_key: PEM file of the key whose signature bundles need; None requires none.
        accept_failed_gate: Whether the user takes responsibility for a gate that failed or is missing.
    """

    bundle: Path | None
    boundary: Boundary = Boundary.POLICY
    engine: str = "cpu"
    threads: int | None = None
    against: Path | None = None
    random: str | None = None
    scheme: str | None = None
    cameras: int = 2
    tokens: int = 20
    server: str | None = None
    protocol: ServedProtocol = "grpc"
    tls: Path | None = None
    api_key: Path | None = None
    robot: str | None = None
    camera_file: Path | None = None
    bridge: str = EMULATED
    public_key: Path | None = None
    accept_failed_gate: bool = False

    @property
    def own_processes(self) -> tuple[int, ...]:
        """Processes of this computer that serve policy or bridge: they are part of what is timed."""
        addresses = [address for address in (self.server, self.bridge) if address not in (None, EMULATED)]
        places = (str(address).rpartition(":") for address in addresses)
        ports = (int(port) for host, _, port in places if host in _LOOPBACK and port.isdigit())
        return tuple(process for port in ports for process in listening_processes(port))

    def check(self) -> None:
        """Returns if it names one thing.

        Raises:
            BenchError: If two of its parts contradict each other.
        """
        if (self.bundle is None) == (self.random is None):
            raise BenchError("give a bundle or random weights; `pi0-edge quantize --output FOLDER` makes a bundle")
        if self.random is not None and (self.boundary is not Boundary.ENGINE or self.against is not None):
            raise BenchError("random weights have no cameras, no actions and no pair: only the engine can be timed")
        if self.random is None and self.scheme is not None:
            raise BenchError("a bundle brings its own scheme; leave the scheme out")
        if self.server is not None and (self.boundary not in _THROUGH_SERVER or self.against is not None):
            raise BenchError("a server is asked at the boundary served or path, alone; choose one, or leave it out")
        if self.protocol != "grpc" and self.boundary is not Boundary.SERVED:
            raise BenchError(f"the protocol {self.protocol} is one of the boundary served; choose it, or leave it out")
        if self.api_key is not None and self.protocol != "openpi":
            raise BenchError("an API key is asked for by openpi's protocol alone; choose it, or leave the key out")
        on_path = self.robot is not None or self.camera_file is not None or self.bridge != EMULATED
        if on_path and self.boundary is not Boundary.PATH:
            raise BenchError("robot, cameras and bridge are those of the boundary path; choose it, or leave them out")
        if self.against is not None and self.boundary is Boundary.PATH:
            raise BenchError("two policies cannot move one arm in turns; choose the boundary engine, policy or served")


@contextmanager
def opened_targets(request: TargetRequest) -> Iterator[list[Opened]]:
    """Loads, starts or connects to what a request names, for as long as the context lasts.

    Yields:
        One, or two that are timed in turns, each with the bundle whose vectors judge it.

    Raises:
        BenchError: If the request contradicts itself, or a server does not start.
        Pi0EdgeError: If something does not load or answer.
    """
    request.check()
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    with ExitStack() as stack:
        if request.random is not None:
            random = RandomTarget(request.random, request.engine, request.scheme, request.cameras, request.tokens)
            yield [(random, None)]
            return
        folders = [folder for folder in (request.bundle, request.against) if folder is not None]
        yield [_opened(folder, request, stack) for folder in folders]


def _opened(folder: Path, request: TargetRequest, stack: ExitStack) -> Opened:
    begin = time.perf_counter()
    bundle = open_bundle(folder, public_key=request.public_key)
    bundle.overrides_in_force(request.accept_failed_gate)
    if request.server is None and request.boundary is not Boundary.SERVED:
        alone = Boundary.POLICY if request.boundary is Boundary.PATH else request.boundary
        loaded = load_target(bundle, request.engine, alone, request.accept_failed_gate)
        loaded.load_s = time.perf_counter() - begin
        if request.boundary is Boundary.PATH:
            return PathTarget(loaded, _path_request(request, loaded.loaded, bundle)), bundle
        return loaded, bundle
    address, load_s = request.server, None
    if address is None:
        server = local_server(folder, request.engine, request.threads, request.accept_failed_gate, request.protocol)
        address, load_s = stack.enter_context(server)
    client: ServedClient
    if request.protocol == "openpi":
        client = OpenpiClient(address, CHUNK_S, request.tls, request.api_key)
    else:
        client = GrpcClient(address, CHUNK_S, request.tls)
    stack.callback(client.close)
    served = ServedTarget(client, bundle, load_s)
    if request.boundary is Boundary.PATH:
        return PathTarget(served, _path_request(request, address, bundle)), bundle
    return served, bundle


def _path_request(request: TargetRequest, policy: Policy | str, bundle: Bundle) -> PathRequest:
    return PathRequest(
        robot=request.robot or bundle.processor().robot,
        policy=policy,
        cameras=request.camera_file,
        bridge=request.bridge,
        profile=bundle.training_profile(),
        tls=request.tls,
    )
