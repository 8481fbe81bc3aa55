"""Which release runs, which one before it, and which are bad: one file, replaced in one step.

`slots.json` is the only commit point. A trial stands in /run instead, so that it ends with the power.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.errors import DeployError
from pi0_edge.synced_files import replace_synced, write_synced


@dataclass(frozen=True)
class Slot:
    """A release as it runs here.

    Attributes:
        release: Its ID.
        sequence: Of its signed statement; a later one is newer.
        environment: Path of the SDK environment that runs it.
    """

    release: str
    sequence: int
    environment: str


@dataclass(frozen=True)
class BadRelease:
    """A release that was taken back; the same bundle signed again has another ID."""

    release: str
    reason: str


@dataclass(frozen=True)
class Slots:
    """The state of a robot; every change gives a new one, for `write_slots`.

    Attributes:
        current: What runs; None on a robot that never had a release.
        previous: What ran before it, to fall back to; None where there is none, or it was fallen back to.
        sequence_floor: Highest sequence that was ever committed; an older release is refused.
        bad: Releases that were taken back.
        committed_at: When `current` was chosen, in Unix time by this robot's clock; 0 where it never was.
    """

    current: Slot | None = None
    previous: Slot | None = None
    sequence_floor: int = 0
    bad: tuple[BadRelease, ...] = ()
    committed_at: float = 0.0

    def is_bad(self, release: str) -> str | None:
        """Why this release was taken back; None where it was not."""
        return next((bad.reason for bad in self.bad if bad.release == release), None)

    def committed(self, slot: Slot) -> Slots:
        """With `slot` as what runs; what ran becomes the one before it."""
        if self.current == slot:
            return self
        floor = max(self.sequence_floor, slot.sequence)
        return dataclasses.replace(
            self, current=slot, previous=self.current, sequence_floor=floor, committed_at=time.time()
        )

    def taken_back(self, reason: str) -> Slots:
        """With the release before as what runs, and the current one as bad.

        Raises:
            DeployError: If there is no release before: this is done once, so that two bad ones never alternate.
        """
        if self.current is None or self.previous is None:
            raise DeployError("there is no earlier release on this robot to go back to; flash a good one")
        return dataclasses.replace(
            self.listed_bad(self.current, reason), current=self.previous, previous=None, committed_at=time.time()
        )

    def listed_bad(self, slot: Slot, reason: str) -> Slots:
        """With `slot` as bad."""
        if self.is_bad(slot.release) is not None:
            return self
        return dataclasses.replace(self, bad=(*self.bad, BadRelease(slot.release, reason)))


def read_slots(layout: Layout) -> Slots:
    """The state on the disk; that of a new robot where there is none.

    Raises:
        DeployError: If the file is there and is not such a state.
    """
    if not layout.slots.exists():
        return Slots()
    try:
        plain = _read(layout.slots)
        return Slots(
            current=_slot(plain["current"]),
            previous=_slot(plain["previous"]),
            sequence_floor=int(plain["sequence_floor"]),
            bad=tuple(BadRelease(**bad) for bad in plain["bad"]),
            committed_at=float(plain["committed_at"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeployError(
            f"{layout.slots} cannot be read ({error}); nothing here writes it half: check the disk"
        ) from error


def write_slots(layout: Layout, slots: Slots) -> None:
    """Replaces the state in one step that a power cut leaves undone or done; hold `slots_locked`."""
    _replace(layout.slots, dataclasses.asdict(slots))


@contextmanager
def slots_locked(layout: Layout) -> Iterator[None]:
    """Installer and fallback change the slots one after the other; waits for its turn, which is milliseconds away."""
    with layout.slots_lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_trial(layout: Layout) -> Slot | None:
    """What is on trial; None without a trial, or where its file cannot be read: then what is committed runs."""
    try:
        return _slot(_read(layout.trial))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def begin_trial(layout: Layout, slot: Slot) -> None:
    """The next start of the services runs `slot`."""
    layout.runtime.mkdir(parents=True, exist_ok=True)
    layout.trial_proof.unlink(missing_ok=True)
    _replace(layout.trial, dataclasses.asdict(slot))


def prove_trial(layout: Layout, slot: Slot, proof: str) -> None:
    """Keeps what the slot on trial has proved: from now on it may be committed."""
    _replace(layout.trial_proof, {"release": slot.release, "proof": proof})


def read_proof(layout: Layout) -> str | None:
    """What the slot on trial has proved; None where its trial was not brought to its end."""
    trial = read_trial(layout)
    try:
        plain = _read(layout.trial_proof)
        return str(plain["proof"]) if trial is not None and plain["release"] == trial.release else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def end_trial(layout: Layout) -> None:
    """The next start of the services runs what is committed."""
    layout.trial.unlink(missing_ok=True)
    layout.trial_proof.unlink(missing_ok=True)


def _slot(plain: Any) -> Slot | None:
    return None if plain is None else Slot(**plain)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())


def _replace(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.new")
    write_synced(temporary, (json.dumps(content, indent=2) + "\n").encode())
    replace_synced(temporary, path)
