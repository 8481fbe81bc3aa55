"""Signs a bundle: from then on it is a release that robots install."""

# pyright: reportPrivateImportUsage=false
# The documented names of python-tuf are not declared as exported.

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone
from pathlib import Path

from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from pi0_edge.deploy.release import FIRMWARE_TARGET, MANIFEST_TARGET, SDK_TARGET, Release, release_folder
from pi0_edge.deploy.trust.publishing import publish, sdk_files
from pi0_edge.deploy.trust.statement import StatementOptions, check_bundle, make_statement
from pi0_edge.deploy.trust.trust_folder import LastRelease, TrustFolder, check_months, later, signed_release, version_of
from pi0_edge.deploy.trust.verification import read_statement
from pi0_edge.errors import DeployError


def sign_release(
    bundle: Path | str,
    sequence: int,
    *,
    trust: Path | str = "trust",
    options: StatementOptions | None = None,
    firmware_image: Path | None = None,
    sdk_folder: Path | None = None,
    expires_months: int | None = None,
    release_key: Path | None = None,
) -> Release:
    """Writes the signed statement beside a bundle, with everything that a robot needs to believe it.

    The bundle itself is not touched. The same bundle signed again with a higher sequence is a newer release: this is
    how robots are taken back to an older bundle on purpose. The same request again writes the same files again.

    Args:
        bundle: Its folder.
        sequence: Higher than any that was signed in this trust folder before.
        trust: The trust folder.
        options: What the statement says besides.
        firmware_image: For the microcontroller; its board is in `options`.
        sdk_folder: With requirements.txt, which has the SHA-256 of every wheel beside it.
        expires_months: How long the release can be installed; else as the trust folder was made.
        release_key: File of the release key; else it is in the trust folder.

    Returns:
        The statement.

    Raises:
        BundleError: If the bundle is not whole.
        DeployError: If its gate did not pass, the sequence is not higher, or the key is not the release key.
    """
    bundle, folder = Path(bundle), TrustFolder(Path(trust).absolute())
    options = options or StatementOptions()
    _check_firmware(options, firmware_image)
    sdk = [] if sdk_folder is None else sdk_files(sdk_folder)
    manifest = check_bundle(bundle)
    with folder.locked():
        root, last = folder.root().signed, folder.last_release()
        signer = folder.signer(root.roles[Targets.type].keyids[0], release_key)
        months = folder.request().expires_months if expires_months is None else expires_months
        check_months(months)
        now = datetime.now(timezone.utc).replace(microsecond=0)
        expires = later(now, months)
        release = make_statement(manifest, sequence, options, int(now.timestamp()))
        targets = _targets(bundle, release, firmware_image, sdk, expires)
        if not _is_repeated(last, root, targets, months):
            _check_sequence(last, release, folder)
            for name, content in signed_release(signer, targets).items():
                folder.write(name, content)
            last = folder.last_release()
        publish(release_folder(bundle), _published(folder, last), firmware_image, sdk)
        return read_statement(last.targets.signed)[0]


def _check_firmware(options: StatementOptions, image: Path | None) -> None:
    if (image is None) != (options.firmware_board is None):
        raise DeployError("a firmware image and the board that it is for go together; give both or neither")
    if image is not None and not image.is_file():
        raise DeployError(f"the firmware image {image} is no file")


def _targets(bundle: Path, release: Release, firmware: Path | None, sdk: list[Path], expires: datetime) -> Targets:
    paths = {MANIFEST_TARGET: bundle / MANIFEST_TARGET}
    if firmware is not None:
        paths[FIRMWARE_TARGET] = firmware
    if sdk:
        paths[SDK_TARGET] = sdk[0]
    listed = {name: TargetFile.from_file(name, str(path), ["sha256"]) for name, path in paths.items()}
    if listed[MANIFEST_TARGET].hashes["sha256"] != release.manifest_sha256:
        raise DeployError(f"{bundle} was changed while it was signed; sign it again")
    statement = {**release.to_dict(), "signed_at": int(release.signed_at)}
    listed[MANIFEST_TARGET].unrecognized_fields["custom"] = statement
    return Targets(version=version_of(release.sequence), expires=expires, targets=listed)


def _is_repeated(last: LastRelease, root: Root, asked: Targets, months: int) -> bool:
    """Whether the last release says what is asked for, so that it only has to be written beside its bundle again."""
    signed = last.targets.signed
    if MANIFEST_TARGET not in signed.targets:
        return False
    before, now = read_statement(signed)[0], read_statement(asked)[0]
    same_files = {name: (target.length, target.hashes) for name, target in signed.targets.items()} == {
        name: (target.length, target.hashes) for name, target in asked.targets.items()
    }
    signed_at = datetime.fromtimestamp(before.signed_at, timezone.utc)
    same = before == dataclasses.replace(now, signed_at=before.signed_at) and later(signed_at, months) == signed.expires
    return same and same_files and not signed.is_expired() and _is_signed(root, last.targets)


def _is_signed(root: Root, metadata: Metadata[Targets]) -> bool:
    """By the release key of today."""
    return bool(root.get_verification_result(Targets.type, metadata.signed_bytes, metadata.signatures))


def _check_sequence(last: LastRelease, release: Release, folder: TrustFolder) -> None:
    signed = last.targets.signed
    before = read_statement(signed)[0] if MANIFEST_TARGET in signed.targets else None
    highest = 0 if before is None else before.sequence
    if release.sequence <= highest:
        bundle = "" if before is None else f" (bundle {before.id})"
        raise DeployError(
            f"sequence {release.sequence} is not higher than {highest}{bundle}, the last one signed in {folder.path}; "
            f"robots would refuse it: use --sequence {highest + 1} or more"
        )


def _published(folder: TrustFolder, last: LastRelease) -> dict[str, bytes]:
    names = [f"{last.targets.signed.version}.targets.json", f"{last.snapshot.signed.version}.snapshot.json"]
    files = {f"{number}.root.json": content for number, content in enumerate(folder.roots(), start=1)}
    return files | {name: (folder.metadata / name).read_bytes() for name in (*names, "timestamp.json")}
