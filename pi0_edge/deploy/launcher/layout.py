"""Where everything lies on a robot's computer. `root` is / there; tests and a disk in a recorder give another.

/var/lib/pi0-edge/
    releases/ID/        bundle/, metadata/, release.json, perhaps firmware.bin; root, never written again
    releases/.ID.deleted/   what is left of a release that is being deleted; nothing reads it
    staging/SHA256/     what is being received; the account pi0-flash writes here and nowhere else
    staging/.basis/     hard links of the running release, read-only, for rsync's block deltas
    slots.json          the only commit point
    tuf/                trusted metadata
    journal.jsonl       every decision with its reason
/opt/pi0-edge/sdk/ID/   one Python environment for each locked list of packages
/etc/pi0-edge/robot.json  what belongs to this robot and not to a release
/run/pi0-edge/trial.json  exists during a trial only: a power cut ends it
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The paths.

    Attributes:
        root: Of the file system.
    """

    root: Path = Path("/")

    @property
    def state(self) -> Path:
        """All that lasts."""
        return self.root / "var/lib/pi0-edge"

    @property
    def releases(self) -> Path:
        """Installed releases by ID."""
        return self.state / "releases"

    @property
    def staging(self) -> Path:
        """What is being received, by the full SHA-256 of its manifest."""
        return self.state / "staging"

    @property
    def basis(self) -> Path:
        """The running release for rsync to compare with."""
        return self.staging / ".basis"

    @property
    def incoming(self) -> Path:
        """What was received and is being verified: root's alone, on the file system of `releases`."""
        return self.state / "incoming"

    @property
    def slots(self) -> Path:
        """The file of the slots."""
        return self.state / "slots.json"

    @property
    def firmware_writing(self) -> Path:
        """Exists from before a firmware image is written until the board was seen to run it."""
        return self.state / "firmware-writing.json"

    @property
    def firmware_lock(self) -> Path:
        """Held by the one who asks and writes the board."""
        return self.runtime / "firmware.lock"

    @property
    def firmware_attempts(self) -> Path:
        """How often the start of the bridge has tried to write an image since this computer booted."""
        return self.runtime / "firmware-attempts.json"

    @property
    def slots_lock(self) -> Path:
        """Held while the slots are read and replaced."""
        return self.state / "slots.lock"

    @property
    def trusted_metadata(self) -> Path:
        """Folder of the TUF client."""
        return self.state / "tuf"

    @property
    def journal(self) -> Path:
        """The file of decisions."""
        return self.state / "journal.jsonl"

    @property
    def environments(self) -> Path:
        """SDK environments by ID."""
        return self.root / "opt/pi0-edge/sdk"

    @property
    def settings(self) -> Path:
        """The file about this robot."""
        return self.root / "etc/pi0-edge/robot.json"

    @property
    def runtime(self) -> Path:
        """What a reboot forgets."""
        return self.root / "run/pi0-edge"

    @property
    def trial(self) -> Path:
        """The slot that is on trial."""
        return self.runtime / "trial.json"

    @property
    def trial_proof(self) -> Path:
        """What the slot on trial has proved; missing until it has."""
        return self.runtime / "trial-proof.json"

    @property
    def lock(self) -> Path:
        """Held by the one installer that may work."""
        return self.runtime / "installer.lock"

    @property
    def socket(self) -> Path:
        """Where the installer answers."""
        return self.runtime / "installer.sock"

    def release(self, release_id: str) -> Path:
        """Folder of an installed release."""
        return self.releases / release_id

    def deleted(self, release_id: str) -> Path:
        """Where an installed release goes first when it is deleted."""
        return self.releases / f".{release_id}.deleted"

    def installed(self) -> list[Path]:
        """Folders of the installed releases, each of them whole; what is being deleted is none."""
        found = sorted(self.releases.iterdir()) if self.releases.is_dir() else []
        return [folder for folder in found if not folder.name.startswith(".")]

    def bundle(self, release_id: str) -> Path:
        """The bundle of an installed release."""
        return self.release(release_id) / "bundle"
