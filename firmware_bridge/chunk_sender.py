"""Sends chunks through one window for any number of threads; the reader thread hands in what the firmware answers.

The thread that brings a chunk also sends it, so that nothing is sent for a caller who has gone. All decisions are
those of `TransferWindow`.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from firmware_bridge.errors import LinkError
from firmware_bridge.transfer_window import Transfer, TransferWindow
from protos.serial_link import ChunkReply, Fragment

_LOOK_S = 0.02  # how often to see whether the chunk is past due
_LINK_DOWN_WAIT_S = 0.02

logger = logging.getLogger(__name__)


class ChunkSender:
    """The chunks of one link."""

    def __init__(self, send: Callable[[Fragment], None], baud: int) -> None:
        """Prepares sending.

        Args:
            send: sends one fragment; raises `LinkError` while the link is down.
            baud: bits per second of the line.
        """
        self._send = send
        self._window = TransferWindow(baud)
        self._changed = threading.Condition()

    def restart(self, receive_window: int) -> None:
        """Begins anew after a handshake, see `TransferWindow.restart`."""
        with self._changed:
            self._window.restart(receive_window)
            self._changed.notify_all()

    def take_reply(self, reply: ChunkReply) -> None:
        """Takes an answer of the firmware. Called in the link's reader thread."""
        with self._changed:
            self._window.take_reply(reply, time.monotonic())
            self._changed.notify_all()

    def let_pass(self) -> None:
        """A newer chunk waits for the one on its way, see `TransferWindow.let_pass`."""
        with self._changed:
            self._window.let_pass()
            self._changed.notify_all()

    def deliver(self, chunk_id: int, fragments: Sequence[Fragment], is_past_due: Callable[[], bool]) -> Transfer:
        """Sends a chunk until the firmware decides on it, a newer one supersedes it, or it is past due."""
        with self._changed:
            transfer = self._window.begin(chunk_id, fragments, time.monotonic())
            self._changed.notify_all()
        try:
            while not transfer.ended and not is_past_due():
                self._advance(transfer)
        finally:
            with self._changed:
                self._window.end(transfer)
        return transfer

    def _advance(self, transfer: Transfer) -> None:
        """Sends one fragment, or waits for something to happen."""
        with self._changed:
            now_s = time.monotonic()
            deadline_s = self._window.deadline_s()
            if deadline_s is not None and deadline_s <= now_s:
                self._window.give_up_waiting(now_s)
            fragment = self._window.next_fragment(transfer, now_s)
            if fragment is None and not transfer.ended:
                wait_s = _LOOK_S if deadline_s is None else min(_LOOK_S, max(0.0, deadline_s - now_s))
                self._changed.wait(wait_s)
        if fragment is not None:
            self._send_once(fragment)

    def _send_once(self, fragment: Fragment) -> None:
        try:
            self._send(fragment)
        except LinkError as error:
            logger.debug("chunk waits for the link: %s", error)
            time.sleep(_LINK_DOWN_WAIT_S)
