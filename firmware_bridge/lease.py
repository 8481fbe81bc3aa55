"""Who holds the arm: one client at a time, from arming until the arm leaves its moving states."""

import secrets
import threading
import time
from dataclasses import dataclass

from firmware_bridge.errors import LeaseError


@dataclass(frozen=True)
class Lease:
    """The right of one client to move the arm."""

    token: str
    owner: str


class LeaseDesk:
    """Gives out the one lease. Safe to use from several threads."""

    def __init__(self, idle_limit_s: float) -> None:
        """Opens the desk.

        Args:
            idle_limit_s: a lease that was not used for so long is overdue.
        """
        self._idle_limit_s = idle_limit_s
        self._lease: Lease | None = None
        self._ended = "the arm was not armed by this client"
        self._used_at = 0.0
        self._lock = threading.Lock()

    @property
    def owner(self) -> str:
        """Name of the client that holds the arm, empty where nobody does."""
        lease = self._lease
        return lease.owner if lease else ""

    def grant(self, owner: str) -> Lease:
        """Gives the arm to a client.

        Raises:
            LeaseError: another client holds it.
        """
        with self._lock:
            if self._lease is not None:
                raise LeaseError(f"client {self._lease.owner!r} holds the arm; it must disarm first")
            self._lease = Lease(secrets.token_hex(16), owner)
            self._used_at = time.monotonic()
            return self._lease

    def check(self, token: str) -> None:
        """Uses the lease; `LeaseError` where the token is not that of the present owner."""
        lease = self._lease
        if lease is not None and token == lease.token:
            self._used_at = time.monotonic()
            return
        if lease is not None:
            raise LeaseError(f"client {lease.owner!r} holds the arm; present the lease that Arm returned")
        raise LeaseError(f"no client holds the arm: {self._ended}; clear where needed and arm again")

    def end(self, reason: str) -> None:
        """Takes the lease back, if there is one."""
        with self._lock:
            if self._lease is not None:
                self._lease, self._ended = None, reason

    @property
    def overdue(self) -> bool:
        """Whether the owner has not used the lease for longer than the limit."""
        with self._lock:
            return self._lease is not None and time.monotonic() - self._used_at > self._idle_limit_s
