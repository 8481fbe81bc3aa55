"""Arming, disarming, e-stop and clearing on behalf of clients: the firmware decides, this keeps the lease in step.

A lease begins when telemetry shows the arm ARMED and ends when telemetry shows it DISARMED, SAFE or ESTOP, so
that the bridge never believes anything the firmware has not said. An owner who plays no chunk for a while is
disarmed.
"""

import logging
import threading
import time
from collections.abc import Callable

from firmware_bridge.errors import BridgeError, LinkError, StateError
from firmware_bridge.lease import Lease, LeaseDesk
from firmware_bridge.link import FirmwareLink
from protos.serial_link import Command, CommandReply, CommandResult, Fault, State, Telemetry

MOVING = (State.ARMED, State.RUNNING, State.STARVED)
LEASE_IDLE_S = 10.0
_CONFIRM_S = 1.0
_LOOK_S = 0.005

logger = logging.getLogger(__name__)


def _never(_: CommandReply) -> bool:
    return False


def _unheard(reply: CommandReply) -> bool:
    """The first heartbeat of a new link counts from the next tick on."""
    return reply.result == CommandResult.NO_HEARTBEAT


def _stopping(reply: CommandReply) -> bool:
    """The firmware clears only an arm that has come to rest."""
    return reply.result == CommandResult.WRONG_STATE and reply.state not in MOVING


class ArmControl:
    """The arm as clients may command it."""

    def __init__(self, link: FirmwareLink, lease_idle_s: float = LEASE_IDLE_S) -> None:
        """Takes charge of a link.

        Args:
            link: the microcontroller.
            lease_idle_s: an owner who plays no chunk for so long is disarmed.
        """
        self._link = link
        self._desk = LeaseDesk(lease_idle_s)
        self._seen_moving = False
        self._busy = threading.Lock()

    @property
    def desk(self) -> LeaseDesk:
        """Who holds the arm."""
        return self._desk

    def arm(self, client: str) -> Lease:
        """Arms for one client.

        Raises:
            LeaseError: another client holds the arm.
            StateError: the state forbids arming.
            LinkError: the firmware does not answer.
        """
        with self._busy:
            lease = self._desk.grant(client)
            self._seen_moving = False
            try:
                self._command(Command.ARM, wait_while=_unheard)
                self._await_state(*MOVING)
            except BridgeError:
                self._desk.end("arming failed")
                raise
            return lease

    def disarm(self, token: str) -> State:
        """Disarms on behalf of the owner, or of anyone where nobody owns the arm.

        Raises:
            LeaseError: another client holds the arm.
            StateError: the state forbids it.
            LinkError: the firmware does not answer.
        """
        if self._desk.owner:
            self._desk.check(token)
        return self._disarm("disarmed by its client")

    def clear(self, token: str) -> State:
        """Leaves SAFE or ESTOP for DISARMED.

        Raises:
            LeaseError: a client holds the arm, and this is not it.
            StateError: the state forbids it.
            LinkError: the firmware does not answer.
        """
        if self._desk.owner:
            self._desk.check(token)
        with self._busy:
            self._command(Command.CLEAR, wait_while=_stopping)
            return self._await_state(State.DISARMED)

    def estop(self, reason: str) -> State:
        """Latches the emergency stop, whoever asks. Waits for no other command.

        Raises:
            LinkError: not confirmed now; it is repeated with every heartbeat until it is.
        """
        logger.warning("emergency stop: %s", reason or "no reason given")
        try:
            self._link.estop()
        except LinkError as error:
            raise LinkError(f"{error}; the emergency stop is repeated until the firmware confirms it") from error
        return self._await_state(State.ESTOP)

    def take_telemetry(self, telemetry: Telemetry) -> None:
        """Ends the lease when the firmware has stopped the arm. Called in the link's reader thread."""
        if telemetry.state in MOVING:
            self._seen_moving = True
        elif self._seen_moving:
            self._seen_moving = False
            self._desk.end(f"at tick {telemetry.tick} the arm became {describe(telemetry)}")

    def disarm_overdue(self) -> None:
        """Disarms an owner who has gone quiet."""
        if self._desk.overdue:
            logger.warning("client %r plays no chunks; disarming", self._desk.owner)
            self.release("its client played no chunk for too long")

    def release(self, reason: str) -> None:
        """Disarms if any client holds the arm, as well as the link allows."""
        if not self._desk.owner:
            return
        try:
            self._disarm(reason)
        except BridgeError as error:
            logger.warning("could not disarm: %s", error)

    def disarm_ownerless(self) -> None:
        """Disarms an arm that nobody holds, such as one that another bridge armed before it died."""
        with self._busy:
            telemetry = self._link.telemetry
            if self._desk.owner or not self._link.up or telemetry is None or telemetry.state not in MOVING:
                return
            logger.warning("nobody holds the arm, yet it is %s; disarming", describe(telemetry))
            try:
                self._command(Command.DISARM)
            except BridgeError as error:
                logger.warning("could not disarm: %s", error)

    def _disarm(self, reason: str) -> State:
        with self._busy:
            self._command(Command.DISARM)
            state = self._await_state(State.DISARMED)
            self._desk.end(reason)
            return state

    def _command(self, command: Command, wait_while: Callable[[CommandReply], bool] = _never) -> None:
        """Has a command carried out; a refusal for a passing reason is tried again for a moment."""
        deadline = time.monotonic() + _CONFIRM_S
        reply = self._link.command(command)
        while wait_while(reply) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
            reply = self._link.command(command)
        if reply.result != CommandResult.OK:
            telemetry = self._link.telemetry
            state = describe(telemetry) if telemetry else State(reply.state).name
            advice = _advice(reply.state, telemetry.faults if telemetry else 0)
            result = CommandResult(reply.result).name
            raise StateError(f"the firmware refused {command.name} ({result}): the arm is {state}; {advice}")

    def _await_state(self, *wanted: State) -> State:
        deadline = time.monotonic() + _CONFIRM_S
        while time.monotonic() < deadline:
            telemetry = self._link.telemetry
            if telemetry is not None and telemetry.state in wanted:
                return State(telemetry.state)
            time.sleep(_LOOK_S)
        found = describe(telemetry) if (telemetry := self._link.telemetry) else "unknown"
        raise StateError(f"the arm did not become {wanted[0].name} within {_CONFIRM_S:.0f} s; it is {found}")


def describe(telemetry: Telemetry) -> str:
    """State and faults in words."""
    faults = [fault.name or "" for fault in Fault if telemetry.faults & fault]
    return State(telemetry.state).name + (f" ({', '.join(faults)})" if faults else "")


def _advice(state: int, faults: int) -> str:
    if state in (State.SAFE, State.ESTOP) or faults:
        return "clear it first"
    if state in MOVING:
        return "disarm it first"
    return "try again"
