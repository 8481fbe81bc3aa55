"""Arm, disarm, e-stop and clear for clients; the lease follows the state that the firmware reports.

One client at a time holds the lease. It begins when telemetry shows the arm ARMED and ends when telemetry shows it
DISARMED, SAFE or ESTOP, so that the bridge assumes nothing that the firmware has not reported. An owner that plays no
chunk for a while is disarmed.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from firmware_bridge.errors import BridgeError, LeaseError, LinkError, StateError
from firmware_bridge.link.link import FirmwareLink
from firmware_bridge.robot import ACTIVE_STATES
from pi0_edge.protos.serial_link import Command, CommandReply, CommandResult, Fault, State, Telemetry


@dataclass(frozen=True)
class Lease:
    """The right of one client to move the arm."""

    token: str
    owner: str


class LeaseManager:
    """Grants the lease. Safe to use from several threads."""

    def __init__(self, idle_limit_s: float) -> None:
        """Starts without a lease.

        Args:
            idle_limit_s: A lease that was not used for so long is overdue.
        """
        self._idle_limit_s = idle_limit_s
        self._lease: Lease | None = None
        self._ended = "the arm was not armed by this client"
        self._used_at = 0.0
        self._lock = threading.Lock()

    @property
    def owner(self) -> str:
        """Name of the client that holds the lease, empty if none does."""
        lease = self._lease
        return lease.owner if lease else ""

    def grant(self, owner: str) -> Lease:
        """Gives the arm to a client.

        Raises:
            LeaseError: Another client holds it.
        """
        with self._lock:
            if self._lease is not None:
                raise LeaseError(f"client {self._lease.owner!r} holds the arm; it must disarm first")
            self._lease = Lease(secrets.token_hex(16), owner)
            self._used_at = time.monotonic()
            return self._lease

    def check(self, token: str) -> None:
        """Records a use of the lease; `LeaseError` if the token is not that of the present owner."""
        lease = self._lease
        if lease is not None and token == lease.token:
            self._used_at = time.monotonic()
            return
        if lease is not None:
            raise LeaseError(f"client {lease.owner!r} holds the arm; present the lease that Arm returned")
        raise LeaseError(f"no client holds the arm: {self._ended}; clear where needed and arm again")

    def end(self, reason: str) -> None:
        """Ends the lease, if there is one."""
        with self._lock:
            if self._lease is not None:
                self._lease, self._ended = None, reason

    @property
    def overdue(self) -> bool:
        """Whether the owner has not used the lease for longer than the limit."""
        with self._lock:
            return self._lease is not None and time.monotonic() - self._used_at > self._idle_limit_s


LEASE_IDLE_S = 10.0
_CONFIRM_S = 1.0
_POLL_S = 0.005

logger = logging.getLogger(__name__)


_ABOUT_JOINTS = {
    CommandResult.NOT_MEASURED: "is not measured: its servo does not answer; check power, cable, ID and baud rate",
    CommandResult.OUTSIDE_LIMITS: "lies outside its position limits; move it inside by hand, or calibrate it",
}


def _never(_: CommandReply) -> bool:
    return False


def _without_heartbeat(reply: CommandReply) -> bool:
    """The first heartbeat of a new link counts from the next tick on."""
    return reply.result == CommandResult.NO_HEARTBEAT


def _stopping(reply: CommandReply) -> bool:
    """The firmware clears only an arm that has come to rest."""
    return reply.result == CommandResult.WRONG_STATE and reply.state not in ACTIVE_STATES


class ArmControl:
    """The arm as clients may command it."""

    def __init__(self, link: FirmwareLink, lease_idle_s: float = LEASE_IDLE_S) -> None:
        """Takes charge of a link.

        Args:
            link: The microcontroller.
            lease_idle_s: An owner who plays no chunk for so long is disarmed.
        """
        self._link = link
        self._leases = LeaseManager(lease_idle_s)
        self._seen_active = False
        self._busy = threading.Lock()

    @property
    def leases(self) -> LeaseManager:
        """Who holds the arm."""
        return self._leases

    def arm(self, client: str) -> Lease:
        """Arms for one client.

        Raises:
            LeaseError: Another client holds the arm.
            StateError: The state forbids arming.
            LinkError: The firmware does not answer.
        """
        with self._busy:
            lease = self._leases.grant(client)
            self._seen_active = False
            try:
                self._command(Command.ARM, wait_while=_without_heartbeat)
                self._await_state(*ACTIVE_STATES)
            except BridgeError:
                self._leases.end("arming failed")
                raise
            return lease

    def disarm(self, token: str) -> State:
        """Disarms for the owner, or for any client if no client owns the arm.

        Raises:
            LeaseError: Another client holds the arm.
            StateError: The state forbids it.
            LinkError: The firmware does not answer.
        """
        if self._leases.owner:
            self._leases.check(token)
        return self._disarm("disarmed by its client")

    def clear(self, token: str) -> State:
        """Leaves SAFE or ESTOP for DISARMED.

        Raises:
            LeaseError: A client holds the arm, and this is not it.
            StateError: The state forbids it.
            LinkError: The firmware does not answer.
        """
        if self._leases.owner:
            self._leases.check(token)
        with self._busy:
            self._command(Command.CLEAR, wait_while=_stopping)
            return self._await_state(State.DISARMED)

    def release(self, token: str) -> State:
        """Takes the torque off the servos of a DISARMED arm, so that it can be moved by hand; ARM gives it back.

        Raises:
            LeaseError: A client holds the arm, and this is not it.
            StateError: The arm is not DISARMED.
            LinkError: The firmware does not answer.
        """
        if self._leases.owner:
            self._leases.check(token)
        with self._busy:
            self._command(Command.RELEASE)
            return State.DISARMED

    def describe(self, telemetry: Telemetry) -> str:
        """State, faults, and the joint that they are about, in words."""
        faults = [fault.name or "" for fault in Fault if telemetry.faults & fault]
        joint = self._link.robot.joint_name(telemetry.fault_joint)
        about = f" of {joint}" if joint else ""
        return State(telemetry.state).name + (f" ({', '.join(faults)}{about})" if faults else "")

    def estop(self, reason: str) -> State:
        """Latches the emergency stop for any client. Does not wait for other commands.

        Raises:
            LinkError: Not confirmed now; it is repeated with every heartbeat until it is.
        """
        logger.warning("emergency stop: %s", reason or "no reason given")
        try:
            self._link.estop()
        except LinkError as error:
            raise LinkError(f"{error}; the emergency stop is repeated until the firmware confirms it") from error
        return self._await_state(State.ESTOP)

    def on_telemetry(self, telemetry: Telemetry) -> None:
        """Ends the lease when the firmware has stopped the arm. Called in the link's reader thread."""
        if telemetry.state in ACTIVE_STATES:
            self._seen_active = True
        elif self._seen_active:
            self._seen_active = False
            self._leases.end(f"at tick {telemetry.tick} the arm became {self.describe(telemetry)}")

    def disarm_overdue(self) -> None:
        """Disarms an owner that has not used the lease for too long."""
        if self._leases.overdue:
            logger.warning("client %r plays no chunks; disarming", self._leases.owner)
            self.give_up("its client played no chunk for too long")

    def give_up(self, reason: str) -> None:
        """Disarms if any client holds the arm, as well as the link allows."""
        if not self._leases.owner:
            return
        try:
            self._disarm(reason)
        except BridgeError as error:
            logger.warning("could not disarm: %s", error)

    def disarm_ownerless(self) -> None:
        """Disarms an arm without an owner, such as one that a bridge armed before it was killed."""
        with self._busy:
            telemetry = self._link.telemetry
            if self._leases.owner or not self._link.up or telemetry is None or telemetry.state not in ACTIVE_STATES:
                return
            logger.warning("nobody holds the arm, yet it is %s; disarming", self.describe(telemetry))
            try:
                self._command(Command.DISARM)
            except BridgeError as error:
                logger.warning("could not disarm: %s", error)

    def _disarm(self, reason: str) -> State:
        with self._busy:
            self._command(Command.DISARM)
            state = self._await_state(State.DISARMED)
            self._leases.end(reason)
            return state

    def _command(self, command: Command, wait_while: Callable[[CommandReply], bool] = _never) -> None:
        """Sends a command; after a refusal for a temporary reason it is sent again for a short time."""
        deadline = time.monotonic() + _CONFIRM_S
        reply = self._link.command(command)
        while wait_while(reply) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            reply = self._link.command(command)
        if reply.result != CommandResult.OK:
            telemetry = self._link.telemetry
            result = CommandResult(reply.result)
            state = self.describe(telemetry) if telemetry else State(reply.state).name
            joint = self._link.robot.joint_name(reply.joint)
            reason = _ABOUT_JOINTS.get(result, "")
            advice = f"{joint} {reason}" if reason else _advice(reply.state, telemetry.faults if telemetry else 0)
            raise StateError(f"the firmware refused {command.name} ({result.name}): the arm is {state}; {advice}")

    def _await_state(self, *wanted: State) -> State:
        deadline = time.monotonic() + _CONFIRM_S
        while time.monotonic() < deadline:
            telemetry = self._link.telemetry
            if telemetry is not None and telemetry.state in wanted:
                return State(telemetry.state)
            time.sleep(_POLL_S)
        found = self.describe(telemetry) if (telemetry := self._link.telemetry) else "unknown"
        raise StateError(f"the arm did not become {wanted[0].name} within {_CONFIRM_S:.0f} s; it is {found}")


def _advice(state: int, faults: int) -> str:
    if state in (State.SAFE, State.ESTOP) or faults:
        return "clear it first"
    if state in ACTIVE_STATES:
        return "disarm it first"
    return "try again"
