"""The signed statement about a bundle, which makes it a release.

It lies beside the bundle, because a bundle holds nothing but itself:

    bundles/cups/              the bundle
    bundles/cups.release/      metadata/   TUF metadata: signatures, versions, expiry      (`trust`)
                               firmware.bin  optional: image for the microcontroller
                               sdk/          optional: locked list and wheels of the SDK environment

The targets that TUF signs are the bundle's manifest.json, which has the SHA-256 of every file of the bundle,
firmware.bin and sdk/requirements.txt, which has the SHA-256 of every wheel. The statement itself is the `custom` field
of the target manifest.json; on the robot a copy lies in the release as release.json.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi0_edge.errors import DeployError

MANIFEST_TARGET = "manifest.json"
FIRMWARE_TARGET = "firmware.bin"
SDK_TARGET = "sdk/requirements.txt"
METADATA_FOLDER = "metadata"
SDK_FOLDER = "sdk"
STATEMENT = "release.json"
ANY_HARDWARE = "any"

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FirmwareNeed:
    """What the microcontroller must run for a release.

    Attributes:
        protocol_version: Of the serial link.
        limits_hash: Of the joint table that bridge and firmware share.
        board: That the image is for; empty where the release has no image.
    """

    protocol_version: int
    limits_hash: int
    board: str = ""

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> FirmwareNeed:
        """Reads what a statement says; unknown fields are left out."""
        return cls(int(plain["protocol_version"]), int(plain["limits_hash"]), str(plain["board"]))


@dataclass(frozen=True)
class Release:
    """The statement.

    Attributes:
        manifest_sha256: Of the bundle's manifest, and thereby of the bundle.
        sequence: Grows with every release of a robot line.
        robot: Name of the robot layout that the policy is for.
        hardware: Kinds of computer that it may run on; `any` is all.
        sdk: Versions of pi0-edge that run it, such as ">=0.1,<0.2".
        firmware: What the microcontroller must run; None where nothing is asked.
        signed_at: Unix time.
    """

    manifest_sha256: str
    sequence: int
    robot: str
    hardware: tuple[str, ...]
    sdk: str
    firmware: FirmwareNeed | None
    signed_at: float

    @property
    def id(self) -> str:
        """Its name on a robot: the same bundle signed again is another release, whose files are links to the first."""
        return f"{self.sequence}-{self.manifest_sha256[:12]}"

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON has."""
        return {**dataclasses.asdict(self), "hardware": list(self.hardware)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Release:
        """Reads a statement that was signed; unknown fields are left out, so that an older robot reads a newer one.

        Raises:
            DeployError: If a field is missing or of the wrong type.
        """
        try:
            firmware = plain["firmware"]
            found = cls(
                manifest_sha256=str(plain["manifest_sha256"]),
                sequence=int(plain["sequence"]),
                robot=str(plain["robot"]),
                hardware=tuple(map(str, plain["hardware"])),
                sdk=str(plain["sdk"]),
                firmware=None if firmware is None else FirmwareNeed.from_dict(firmware),
                signed_at=float(plain["signed_at"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DeployError(
                f"the statement of the release cannot be read ({error}); sign the bundle again"
            ) from error
        if not _SHA256.fullmatch(found.manifest_sha256) or found.sequence < 1:
            raise DeployError("the statement of the release has no SHA-256 or no sequence; sign the bundle again")
        return found


def release_folder(bundle: Path) -> Path:
    """Where the statement of a bundle lies."""
    bundle = bundle.absolute()
    return bundle.with_name(f"{bundle.name}.release")
