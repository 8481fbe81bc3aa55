"""Writes the observations that a policy server answers to a folder, for calibration and for the gate.

    FOLDER/20261124T203211Z-1/000001.npz      one file per observation, see `pi0_edge.processing.recordings`

Every run of the server is a folder of its own, as every episode of a dataset is one. A chunk never waits for the disk:
a thread writes behind it, and what it cannot keep up with is left out and counted. Files appear complete or not at all.
When the folder has reached its limit, recording ends, serving continues.
"""

from __future__ import annotations

import logging
import queue
import threading
from datetime import datetime, timezone
from pathlib import Path

from pi0_edge.errors import ServingError
from pi0_edge.processing import Observation
from pi0_edge.processing.recordings import write_observation_archive

DEFAULT_LIMIT_BYTES = 4 << 30
"""1,500 observations of three cameras of 640x480: enough to calibrate and to judge."""

_WAITING = 8
"""Observations that wait for the disk: 22 MB with three cameras of 640x480."""

_OVERHEAD_BYTES = 16 << 10
"""State, prompt, clock and the headers of the file, at most."""

logger = logging.getLogger(__name__)


class ObservationRecorder:
    """Records in the background until it is closed.

    Attributes:
        folder: The folder of this run.
        recorded: Observations on disk.
        left_out: Observations that the disk was too slow or too small for.
    """

    def __init__(self, root: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        """Makes the folder of this run.

        Args:
            root: Folder of all runs.
            limit_bytes: Most bytes in `root`, earlier runs included.

        Raises:
            ServingError: If the folder cannot be written, or has reached its limit already.
        """
        self.recorded = 0
        self.left_out = 0
        try:
            self.folder = _new_folder(root)
            self._room = limit_bytes - sum(file.stat().st_size for file in root.rglob("*.npz"))
        except OSError as error:
            raise ServingError(f"cannot record into {root} ({error}); expected a folder that can be written") from error
        if self._room <= 0:
            self.folder.rmdir()
            raise ServingError(
                f"{root} holds {limit_bytes >> 20} MiB of observations already; move some, or allow more"
            )
        self._waiting: queue.Queue[tuple[Observation, int, int] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._write_all, name="recorder", daemon=True)
        self._thread.start()

    def record(self, observation: Observation, tick: int, capture_time_ns: int) -> None:
        """Takes one observation and returns at once."""
        try:
            self._waiting.put_nowait((observation, tick, capture_time_ns))
        except queue.Full:
            self.left_out += 1

    def close(self) -> None:
        """Writes what waits, and ends."""
        self._waiting.put(None)
        self._thread.join()

    def _write_all(self) -> None:
        while (taken := self._waiting.get()) is not None:
            if self._room > 0 and self._write(*taken):
                self.recorded += 1
            else:
                self.left_out += 1

    def _write(self, observation: Observation, tick: int, capture_time_ns: int) -> bool:
        """Whether it was written; where not, nothing is from now on."""
        path = self.folder / f"{self.recorded + 1:06d}.npz"
        needed = _OVERHEAD_BYTES + sum(image.nbytes for image in observation.images.values())
        try:
            if needed > self._room:
                raise OSError("its limit is reached")
            write_observation_archive(path, observation, tick, capture_time_ns)
            self._room -= path.stat().st_size
        except OSError as error:
            self._room = 0
            logger.warning("recording ends after %d observations in %s: %s", self.recorded, self.folder, error)
            return False
        return True


def _new_folder(root: Path) -> Path:
    """A folder named by the time; the number tells apart what began in the same second."""
    name = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    number = 1
    while (folder := root / f"{name}-{number}").exists():
        number += 1
    folder.mkdir(parents=True)
    return folder
