"""The websocket server: openpi's robots ask the policy as they ask openpi's own server.

A connection gets the metadata, then one reply for each observation. What cannot be answered ends it: a text that names
the field, then close code 1011. The policy works in a thread of its own, so that handshakes, pings and `/healthz` are
answered during an inference of any length.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as Handshake
from websockets.http11 import Response
from websockets.protocol import State

from pi0_edge.errors import ObservationError, Pi0EdgeError, ServingError
from pi0_edge.policy import PolicyChunk
from pi0_edge.serving.inference_queue import WAITING_OF_ONE
from pi0_edge.serving.messages import MESSAGE_LIMIT
from pi0_edge.serving.openpi.access import OPENPI_LISTEN, knows_key, listen_address, server_tls
from pi0_edge.serving.openpi.encoding import encode
from pi0_edge.serving.openpi.observations import OpenpiRequest, read_request
from pi0_edge.serving.openpi.replies import describe, write_reply
from pi0_edge.serving.shared_policy import Request, SharedPolicy

logger = logging.getLogger(__name__)
_library_logger = logging.getLogger(f"{__name__}.websockets")
_library_logger.setLevel(logging.CRITICAL)  # it logs a stack trace for each handshake that a stranger breaks

_STOP_GRACE_S = 2.0
_CLOSE_S = 2.0
_START_S = 30.0
_STOPS = "the policy server stops"
_LONGEST_REASON = 120  # bytes; a close frame has room for 123


@dataclass(frozen=True)
class OpenpiLimits:
    """What clients may take.

    Attributes:
        clients: Connections at a time; a further one is refused with status 503.
        message_bytes: Of one observation.
        handshake_s: From the connection to the end of its handshake.
        idle_s: Between two observations. People set up a robot meanwhile, and stock clients do not reconnect.
        ping_s: How often a client is asked whether it is there, and how long it has to answer.
    """

    clients: int = 16
    message_bytes: int = MESSAGE_LIMIT
    handshake_s: float = 10.0
    idle_s: float = 3600.0
    ping_s: float = 20.0


class OpenpiServer:
    """A `WayIn` that speaks openpi's protocol: `start`, then `stop`, or a context manager.

    Attributes:
        protocol: Its name, for people.
        address: Where it listens, host:port, valid once started.
    """

    protocol = "openpi"

    def __init__(
        self,
        shared: SharedPolicy,
        listen: str = OPENPI_LISTEN,
        *,
        api_key: str | None = None,
        tls: Path | None = None,
        allow_remote: bool = False,
        default_prompt: str | None = None,
        limits: OpenpiLimits | None = None,
    ) -> None:
        """Prepares a server; it listens nowhere yet.

        Args:
            shared: The policy, loaded and ready.
            listen: host:port, or a port of loopback; port 0 takes a free one.
            api_key: What every client must know; None asks for nothing.
            tls: Folder with authority, certificate and key; None does not encrypt.
            allow_remote: Whether an address beyond loopback is meant although TLS or API key is missing.
            default_prompt: For observations without one, as ALOHA's; None for the robot's own.
            limits: What clients may take; the defaults where None.

        Raises:
            EndpointError: If the address is malformed, or beyond loopback without what that needs, or something is
                wrong with the folder for TLS.
        """
        self._host, self._port = listen_address(
            listen, tls=tls is not None, api_key=api_key is not None, allow_remote=allow_remote
        )
        self.address = f"{self._host}:{self._port}"
        self._shared = shared
        self._api_key = api_key
        self._tls = None if tls is None else server_tls(tls)
        self._default_prompt = default_prompt
        self._limits = limits or OpenpiLimits()
        self._metadata = encode(describe(shared.policy, default_prompt))
        self._open: set[_Connection] = set()
        self._asked_to_stop = asyncio.Event()
        # Clients wait here: one that is told to come back later gives up. A client of gRPC finds room nevertheless.
        self._most_turns = shared.batching.waiting - WAITING_OF_ONE
        self._turns = asyncio.Semaphore(self._most_turns)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = threading.Event()
        self._number = 0
        if allow_remote and (tls is None or api_key is None):
            logger.warning("allow_remote: anyone who reaches %s can use this policy", listen)

    def __enter__(self) -> OpenpiServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listens, and returns.

        Raises:
            ServingError: If the port is taken or the host is not one of this machine.
        """
        started = threading.Event()
        failed: list[Exception] = []

        def serve_all() -> None:
            try:
                asyncio.run(self._serve(started.set))
            except Exception as error:
                if started.is_set():
                    logger.exception("the openpi server ended")
                failed.append(error)
            finally:
                started.set()
                self._closed.set()

        threading.Thread(target=serve_all, name="openpi", daemon=True).start()
        if not started.wait(_START_S):
            raise ServingError(f"cannot listen on {self.address} within {_START_S:g} s; is its host name resolved?")
        if failed and not isinstance(failed[0], (OSError, ValueError)):
            raise failed[0]
        if failed:
            raise ServingError(
                f"cannot listen on {self.address} ({failed[0]}): not a host of this machine, or taken; `ss -ltnp` "
                "names by what"
            ) from failed[0]

    def stop(self) -> None:
        """Refuses new requests, lets a running one finish for up to two seconds, closes with code 1001."""
        if self._loop is None or self._closed.is_set():
            return
        self._loop.call_soon_threadsafe(self._asked_to_stop.set)
        self._closed.wait()  # not for the thread: it ends after its inferences, and one may hang

    async def _serve(self, on_ready: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(2 * self._most_turns, thread_name_prefix="openpi"))
        limits = self._limits
        server = await serve(
            self._talk,
            self._host.strip("[]"),
            self._port,
            ssl=self._tls,
            ssl_handshake_timeout=None if self._tls is None else limits.handshake_s,
            process_request=self._admit,
            create_connection=self._connection,  # pyright: ignore[reportArgumentType]  # it is called, no more
            compression=None,
            open_timeout=limits.handshake_s,
            ping_interval=limits.ping_s,
            ping_timeout=limits.ping_s,
            close_timeout=_CLOSE_S,
            max_size=limits.message_bytes,
            max_queue=1,
            server_header=None,
            logger=_library_logger,
        )
        self.address = f"{self._host}:{next(iter(server.sockets)).getsockname()[1]}"
        on_ready()
        await self._asked_to_stop.wait()
        await self._close(server)
        self._closed.set()

    async def _close(self, server: Server) -> None:
        """No new connection; idle ones are closed at once, the others after their reply or the time of grace."""
        server.close(close_connections=False)
        busy = [connection.answer for connection in self._open if connection.answer is not None]
        await asyncio.gather(
            *(c.close(1001, _STOPS) for c in self._open if c.protocol.state is State.OPEN and c.answer is None)
        )
        if busy:
            await asyncio.wait(busy, timeout=_STOP_GRACE_S)
        await asyncio.gather(*(c.close(1001, _STOPS) for c in self._open if c.protocol.state is State.OPEN))
        await server.wait_closed()

    def _connection(self, *arguments: Any, **options: Any) -> _Connection:
        return _Connection(*arguments, open_now=self._open, most=2 * self._limits.clients + 8, **options)

    def _admit(self, connection: ServerConnection, handshake: Handshake) -> Response | None:
        """Refuses a handshake, or answers a question for the health; None goes on."""
        if handshake.path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        headers = handshake.headers
        if headers.get_all("Origin"):
            return connection.respond(HTTPStatus.FORBIDDEN, "a robot's client sends no Origin; browsers are refused\n")
        given = headers.get_all("Authorization")
        if self._api_key is not None and not (len(given) == 1 and knows_key(given[0], self._api_key)):
            return connection.respond(HTTPStatus.UNAUTHORIZED, "expected the header Authorization: Api-Key KEY\n")
        if sum(other.admitted for other in self._open) >= self._limits.clients:
            most = self._limits.clients
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"{most} clients are connected already\n")
        cast(_Connection, connection).admitted = True
        return None

    async def _talk(self, opened: ServerConnection) -> None:
        connection = cast(_Connection, opened)
        self._number += 1
        client = f"openpi {self._number}"
        logger.info("client=%s peer=%s", client, connection.remote_address)
        try:
            await connection.send(self._metadata)
            await self._answer_all(connection, client)
        except ConnectionClosed:
            logger.info("client=%s has gone", client)

    async def _answer_all(self, connection: _Connection, client: str) -> None:
        """Answers one observation after the other, until the client goes, errs or is idle, or the server stops."""
        total_ms = None
        while not self._asked_to_stop.is_set():
            try:
                message = await asyncio.wait_for(connection.recv(), self._limits.idle_s)
            except asyncio.TimeoutError:
                await connection.close(1001, f"no observation within {self._limits.idle_s:g} s")
                return
            arrived = time.perf_counter()
            connection.answer = asyncio.create_task(self._answer(message, client, connection, total_ms))
            try:
                reply = await connection.answer
            except Pi0EdgeError as error:
                logger.warning("refused client=%s reason=%s", client, str(error))
                await _end(connection, str(error))
                return
            except Exception:
                logger.exception("an inference failed")
                await _end(connection, "the policy failed; the log of the policy server says why")
                return
            await connection.send(reply)
            connection.answer = None
            total_ms = 1e3 * (time.perf_counter() - arrived)
        await connection.close(1001, _STOPS)

    async def _answer(
        self, message: str | bytes, client: str, connection: _Connection, prev_total_ms: float | None
    ) -> bytes:
        if isinstance(message, str):
            raise ObservationError("the message is a text frame, expected a binary frame of msgpack")
        async with self._turns:
            if connection.protocol.close_code is not None:
                raise ServingError("the client went away before its turn")
            started = time.perf_counter()
            chunk, rows = await _unless_closed(connection, lambda keep: self._infer(message, client, keep))
            infer_ms = 1e3 * (time.perf_counter() - started)
            overrides = self._shared.policy.overrides
            return encode(write_reply(chunk, rows, overrides, infer_ms, prev_total_ms))

    def _infer(
        self, message: bytes, client: str, keep: Callable[[Callable[[], None]], object]
    ) -> tuple[PolicyChunk, int | None]:
        asked: list[OpenpiRequest] = []

        def read() -> Request:
            request = read_request(message, self._shared.policy.processor.robot, self._default_prompt)
            asked.append(request)
            return Request(request.observation, noise_seed=request.noise_seed, plan=request.plan)

        chunk = self._shared.infer(read, client, on_queued=keep)
        return chunk, asked[0].rows


class _Connection(ServerConnection):
    """A connection that knows what is asked on it, and is none where too many are open.

    Attributes:
        admitted: Whether its handshake passed.
        answer: The task that makes a reply; None where no observation waits.
    """

    def __init__(self, *arguments: Any, open_now: set[_Connection], most: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.admitted = False
        self.answer: asyncio.Task[bytes] | None = None
        self._open_now, self._most = open_now, most

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Counts itself, or goes at once: who holds many sockets open and says nothing takes no memory."""
        if len(self._open_now) >= self._most:
            cast(asyncio.Transport, transport).abort()
            return
        self._open_now.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Makes room for another."""
        if self in self._open_now:
            self._open_now.remove(self)
            super().connection_lost(exc)


async def _unless_closed(
    connection: ServerConnection, work: Callable[[Callable[[Callable[[], None]], object]], Any]
) -> Any:
    """What `work` returns, which runs in a thread.

    Args:
        connection: Of the client.
        work: Given a function that takes the function which drops it.

    Raises:
        ServingError: If the client goes: the request is dropped where it has not started.
    """
    drops: list[Callable[[], None]] = []
    working = asyncio.ensure_future(asyncio.to_thread(work, drops.append))
    closing = asyncio.ensure_future(connection.wait_closed())
    try:
        await asyncio.wait({working, closing}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            for drop in drops:
                drop()
            working.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody asks for it
            raise ServingError("the client went away before its chunk")
        return working.result()
    finally:
        closing.cancel()


async def _end(connection: ServerConnection, reason: str) -> None:
    """Says what was wrong, as openpi's client expects it."""
    await connection.send(reason)
    short = reason.encode()[:_LONGEST_REASON].decode("utf-8", "ignore")
    await connection.close(1011, short)
