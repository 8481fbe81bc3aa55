"""What a release says of a bundle: found in the bundle where it can be, given by its signer where it cannot."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from firmware_bridge.firmware.joint_table import joint_table
from pi0_edge.bundle.checksums import MANIFEST_FILES, read_manifest
from pi0_edge.bundle.file_list import listed_files
from pi0_edge.bundle.files import verify_files
from pi0_edge.deploy.release import ANY_HARDWARE, FirmwareNeed, Release
from pi0_edge.errors import BundleError, ConfigError, DeployError
from pi0_edge.installed_packages import DISTRIBUTION
from pi0_edge.json_files import parse_json_object
from pi0_edge.protos.serial_link import VERSION
from pi0_edge.robots import parse_robot


@dataclass(frozen=True)
class StatementOptions:
    """What a signer says of a bundle besides its sequence; None is found in the bundle.

    Attributes:
        hardware: Kinds of computer that it may run on.
        sdk: Versions of pi0-edge that run it; else those of the minor line of this one.
        firmware_board: That the firmware image is for; without an image nothing.
        firmware_protocol: Version of the serial link; else that of this pi0-edge.
        firmware_limits_hash: Of the joint table; else that of the bundle's robot.
        accept_failed_gate: Signs a bundle whose accuracy gate failed or is missing.
    """

    hardware: tuple[str, ...] = (ANY_HARDWARE,)
    sdk: str | None = None
    firmware_board: str | None = None
    firmware_protocol: int | None = None
    firmware_limits_hash: int | None = None
    accept_failed_gate: bool = False


def minor_line(of: str | None = None) -> str:
    """The versions that promise to work alike, such as ">=0.1,<0.2".

    Args:
        of: One of them; else the version of this pi0-edge.
    """
    found = Version(version(DISTRIBUTION) if of is None else of)
    return f">={found.major}.{found.minor},<{found.major}.{found.minor + 1}"


def check_bundle(bundle: Path) -> bytes:
    """The manifest of a bundle, once every byte of the bundle is verified.

    Raises:
        BundleError: If anything is missing, surplus, truncated or changed.
    """
    if not bundle.is_dir():
        raise BundleError(f"{bundle} is not a folder; expected a bundle, which `pi0-edge quantize` makes")
    resolved = bundle.resolve()
    try:
        manifest = read_manifest(resolved, None)
        verify_files(resolved, listed_files(manifest), allowed_extra=MANIFEST_FILES)
    except BundleError as error:
        raise BundleError(f"{bundle} is not signed: {error}") from error
    return manifest


def make_statement(manifest: bytes, sequence: int, options: StatementOptions, signed_at: int) -> Release:
    """The statement about a bundle.

    Args:
        manifest: Of the bundle.
        sequence: Higher than that of any release before.
        options: What else its signer says.
        signed_at: Unix time in whole seconds: the canonical JSON that is signed has no fractions.

    Raises:
        DeployError: If the gate did not pass, or something is wrong or missing in the options.
    """
    plain = parse_json_object(manifest, "the manifest", BundleError)
    if not options.accept_failed_gate:
        _check_gate(plain)
    if sequence < 1:
        raise DeployError(
            f"the sequence {sequence} is not possible; the first release has 1, and every other a higher one"
        )
    if not options.hardware or not all(options.hardware):
        raise DeployError("no hardware is named; leave the option out where any computer may run the release")
    return Release(
        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
        sequence=sequence,
        robot=_robot_name(plain),
        hardware=options.hardware,
        sdk=_sdk(options.sdk),
        firmware=_firmware(plain, options),
        signed_at=float(signed_at),
    )


def _check_gate(manifest: Mapping[str, Any]) -> None:
    gate = manifest.get("gate")
    verdict = gate.get("verdict") if isinstance(gate, dict) else None
    if isinstance(verdict, dict) and verdict.get("passed") is True:
        return
    if isinstance(verdict, dict):
        reasons = "; ".join(map(str, verdict.get("reasons") or ["no reason recorded"]))
        why = f"its accuracy gate failed ({reasons})"
    else:
        why = "it never went through the accuracy gate"
    raise DeployError(
        f"the bundle is not signed: {why}; quantize it with a better scheme, or take responsibility with "
        "--accept-failed-gate"
    )


def _robot_name(manifest: Mapping[str, Any]) -> str:
    robot = manifest.get("robot")
    name = robot.get("name") if isinstance(robot, dict) else None
    if not isinstance(name, str) or not name:
        raise DeployError("the bundle does not say which robot it is for; make it again with `pi0-edge quantize`")
    return name


def _sdk(given: str | None) -> str:
    sdk = minor_line() if given is None else given
    try:
        SpecifierSet(sdk)
    except InvalidSpecifier as error:
        raise DeployError(f'{sdk!r} is no range of versions; expected such as "{minor_line()}"') from error
    return sdk


def _firmware(manifest: Mapping[str, Any], options: StatementOptions) -> FirmwareNeed | None:
    protocol, limits = options.firmware_protocol, options.firmware_limits_hash
    if limits is None:
        try:
            limits = joint_table(parse_robot(manifest["robot"], "the robot of the bundle")).limits_hash
        except ConfigError as error:
            if options.firmware_board is not None or protocol is not None:
                raise DeployError(
                    f"the firmware cannot drive the robot of the bundle ({error}); leave the firmware out, or give "
                    "--firmware-limits-hash and --firmware-protocol"
                ) from error
            return None
    return FirmwareNeed(VERSION if protocol is None else protocol, limits, options.firmware_board or "")
