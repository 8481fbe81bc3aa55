"""The link to one microcontroller: reading, heartbeat, commands, and recovery after a loss.

Two threads. The reader owns the port: it opens it, does the handshake, dispatches messages, and begins again when
the port disappears, the board restarts or its answers do not arrive. The heartbeat sends a ping every 50 ms while the
reader runs and receives answers. The firmware stops the arm by itself when pings do not arrive. So a killed
host needs no action here, and a host that receives nothing must not keep the arm moving.
"""

import contextlib
import itertools
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from firmware_bridge.errors import BridgeError, LinkError
from firmware_bridge.link.clock import TickClock, Verdict
from firmware_bridge.link.framing import LineCounters
from firmware_bridge.link.measurements import JointHealth, JointMeasurements, health_of, measurements_at
from firmware_bridge.link.port import open_stream
from firmware_bridge.link.session import LinkSession, shake_hands
from firmware_bridge.link.transfer import ChunkSender
from firmware_bridge.robot import RobotJoints
from pi0_edge.protos.serial_link import (
    ChunkReply,
    Command,
    CommandReply,
    CommandRequest,
    CommandResult,
    Counters,
    Health,
    Measured,
    Message,
    Ping,
    Pong,
    State,
    Telemetry,
    Welcome,
)

HEARTBEAT_S = 0.05
_SILENCE_S = 0.5  # without a pong for so long, the link counts as down
_READ_S = 0.05
_REOPEN_S = 0.3
_COMMAND_RETRY_S = 0.06
_RECONNECT_LIMIT_S = 2.0

logger = logging.getLogger(__name__)


def _ignore(_: Telemetry) -> None:
    """Ignores telemetry."""


class FirmwareLink:
    """One microcontroller on one serial port.

    Attributes:
        robot: The joints that it drives.
        line: What the host's decoder counted since `start`.
        chunks: Sends chunks and processes the answers to them.
    """

    def __init__(
        self,
        port: str,
        robot: RobotJoints,
        *,
        baud: int = 921600,
        on_telemetry: Callable[[Telemetry], None] = _ignore,
    ) -> None:
        """Prepares the link; `start` opens the port.

        Args:
            port: Device path, pseudo-terminal or `socket://host:port`.
            robot: Joints that the firmware must have been built for.
            baud: Bits per second.
            on_telemetry: Called in the reader thread for every tick that arrives; must return quickly.
        """
        self.robot = robot
        self.baud = baud
        self.line = LineCounters()
        self.chunks = ChunkSender(self.send, baud)
        self._port = port
        self._on_telemetry = on_telemetry
        self._session: LinkSession | None = None
        self._welcome: Welcome | None = None
        self._clock: TickClock | None = None
        self._telemetry: Telemetry | None = None
        self._counters: Counters | None = None
        self._measured: Measured | None = None
        self._health: Health | None = None
        self._last_pong = 0.0
        self._problem = ""
        self._read_at = self._beat_at = 0.0
        self._estop_wanted = False
        self._replies: dict[int, queue.SimpleQueue[CommandReply]] = {}  # of commands that wait, by nonce
        self._nonces = itertools.count(secrets.randbelow(1 << 31))
        self._stop = threading.Event()
        self._reader = threading.Thread(target=self._read, name="link-reader", daemon=True)
        self._heart = threading.Thread(target=self._run_heartbeat, name="link-heartbeat", daemon=True)

    def start(self, timeout_s: float = 5.0) -> None:
        """Opens the port and returns when the firmware's clock is known.

        Raises:
            PortError: The port cannot be opened.
            LinkError: The firmware does not answer within `timeout_s` seconds.
            ProtocolError: It was built for other messages or other joints.
        """
        deadline = time.monotonic() + timeout_s
        self._connect(timeout_s)
        self._reader.start()
        self._heart.start()
        while not (self.up and self.clock.ready):
            if time.monotonic() > deadline:
                self.close()
                raise LinkError(f"the firmware answered at first, then fell silent within {timeout_s:.1f} s")
            time.sleep(0.005)

    def close(self) -> None:
        """Ends both threads and closes the port. The firmware stops the arm when no pings arrive."""
        self._stop.set()
        for thread in (self._heart, self._reader):
            if thread.is_alive():
                thread.join()
        self._drop_session()

    @property
    def up(self) -> bool:
        """Whether the firmware answered a ping recently."""
        clock = self._clock
        return self._session is not None and clock is not None and clock.ready and not self._silent

    @property
    def problem(self) -> str:
        """Why the link is down, as the last attempt to restore it found; empty while it is up."""
        return "" if self.up else self._problem or f"the firmware on {self._port} has not answered a ping recently"

    @property
    def idle_s(self) -> float:
        """Seconds since the slower of the two threads last began a round, whether the firmware answers or not."""
        return time.monotonic() - min(self._read_at, self._beat_at)

    @property
    def _silent(self) -> bool:
        return time.monotonic() - self._last_pong > _SILENCE_S

    @property
    def welcome(self) -> Welcome:
        """The `Welcome` of the last handshake."""
        if self._welcome is None:
            raise LinkError("the firmware has not answered yet")
        return self._welcome

    @property
    def clock(self) -> TickClock:
        """The firmware's clock since its last start."""
        if self._clock is None:
            raise LinkError("the firmware has not answered yet")
        return self._clock

    @property
    def telemetry(self) -> Telemetry | None:
        """The newest tick, None before the first since the firmware's last start."""
        return self._telemetry

    @property
    def health(self) -> JointHealth | None:
        """Temperature and supply of the servos, as the firmware last reported them."""
        return None if self._health is None else health_of(self._health)

    def measurements(self, telemetry: Telemetry) -> JointMeasurements:
        """What was known of the joints when a tick that has just arrived began."""
        return measurements_at(telemetry, self._measured, self.robot, self.clock.tick_period_s)

    @property
    def counters(self) -> Counters | None:
        """The firmware's newest counters."""
        return self._counters

    def send(self, message: Message) -> None:
        """Sends one message, once.

        Raises:
            LinkError: The link is down.
        """
        session = self._session
        if session is None:
            raise LinkError(f"the link to the firmware on {self._port} is down")
        session.send(message)

    def command(self, command: Command, timeout_s: float = 1.0) -> CommandReply:
        """Sends a command until it is answered; the firmware carries out a repeated nonce only once.

        Raises:
            LinkError: No answer within `timeout_s` seconds.
        """
        request = CommandRequest(next(self._nonces) & 0xFFFFFFFF, command)
        deadline = time.monotonic() + timeout_s
        failure = f"the firmware did not answer {command.name} within {timeout_s:.1f} s"
        with self._expected_replies(request.nonce) as replies:
            while time.monotonic() < deadline:
                try:
                    self.send(request)
                except LinkError as error:
                    failure = str(error)  # the link may come back in time
                with contextlib.suppress(queue.Empty):
                    return replies.get(timeout=_COMMAND_RETRY_S)
        raise LinkError(failure)

    def estop(self, timeout_s: float = 1.0) -> CommandReply:
        """Latches the emergency stop; while the link is down, the command is sent again with each heartbeat.

        Raises:
            LinkError: Not confirmed within `timeout_s` seconds.
        """
        self._estop_wanted = True
        reply = self.command(Command.ESTOP, timeout_s)
        # Once confirmed it is not repeated until telemetry shows it too: it could outlive a Clear within that tick.
        self._estop_wanted = reply.result != CommandResult.OK
        return reply

    @contextmanager
    def _expected_replies(self, nonce: int) -> Iterator[queue.SimpleQueue[CommandReply]]:
        """The answers to one command, while the context lasts; the reader thread fills the queue."""
        replies = self._replies[nonce] = queue.SimpleQueue()
        try:
            yield replies
        finally:
            del self._replies[nonce]

    def _connect(self, timeout_s: float) -> None:
        session = LinkSession(open_stream(self._port, self.baud), self.line)
        try:
            welcome = shake_hands(session, self.robot, timeout_s)
        except BridgeError:
            session.close()
            raise
        self._telemetry = self._measured = self._health = None
        self._problem = ""
        self._welcome = welcome
        self._clock = TickClock(welcome.counter_hz, welcome.tick_period_us)
        self._last_pong = time.monotonic()
        self._session = session
        self.chunks.restart(welcome.receive_window)

    def _drop_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _read(self) -> None:
        while not self._stop.is_set():
            self._read_at = time.monotonic()
            try:
                self._read_session()
            except BridgeError as error:
                logger.warning("link lost: %s", error)
                self._problem = str(error)
                self._drop_session()
                self._stop.wait(_REOPEN_S)

    def _read_session(self) -> None:
        if self._session is None:
            self._connect(_RECONNECT_LIMIT_S)
            logger.info("link restored on %s", self._port)
        session = self._session
        while session is not None and not self._stop.is_set():
            self._read_at = time.monotonic()
            for message in session.receive(_READ_S):
                self._dispatch(message)
            if self._silent:
                raise LinkError(f"the firmware on {self._port} has not answered a ping for {_SILENCE_S:g} s")

    def _dispatch(self, message: Message) -> None:
        match message:
            case Telemetry():
                self._handle_telemetry(message)
            case Pong():
                self._handle_pong(message)
            case CommandReply():
                if (replies := self._replies.get(message.nonce)) is not None:
                    replies.put(message)
            case ChunkReply():
                self.chunks.on_reply(message)
            case Counters():
                self._counters = message
            case Measured():
                self._measured = message
            case Health():
                self._health = message

    def _handle_pong(self, pong: Pong) -> None:
        self._last_pong = time.monotonic()
        verdict = self.clock.add_round_trip(pong.host_time_us * 1000, time.monotonic_ns(), pong.counter)
        if verdict is Verdict.STEPPED:
            logger.info("the host's clock stood still, or the first answers were slow: the tick estimate begins anew")

    def _handle_telemetry(self, telemetry: Telemetry) -> None:
        if telemetry.state == State.ESTOP:
            self._estop_wanted = False
        self._telemetry = telemetry
        self.clock.add_tick(telemetry.tick, telemetry.counter)
        self._on_telemetry(telemetry)

    def _run_heartbeat(self) -> None:
        due = time.monotonic()
        for ping_id in itertools.count():
            self._beat_at = time.monotonic()
            due = max(due + HEARTBEAT_S, self._beat_at)
            if self._stop.wait(due - time.monotonic()) or not self._reader.is_alive():
                return
            try:
                self._send_heartbeat(ping_id & 0xFFFFFFFF)
            except LinkError as error:
                logger.debug("no heartbeat: %s", error)

    def _send_heartbeat(self, ping_id: int) -> None:
        if self._estop_wanted:
            self.send(CommandRequest(next(self._nonces) & 0xFFFFFFFF, Command.ESTOP))
        self.send(Ping(ping_id, time.monotonic_ns() // 1000))
