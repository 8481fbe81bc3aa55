"""`pi0-edge release`: a bundle becomes a release by a signed statement about it, and may bring its SDK."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output
from pi0_edge.cli.release_sdk import sdk
from pi0_edge.errors import ConfigError

if TYPE_CHECKING:
    from pi0_edge.deploy.trust import SignedRelease

release = typer.Typer(no_args_is_help=True, help="Sign bundles for robots, show what was signed, make SDKs.")
release.command("sdk")(sdk)

BundleArgument = Annotated[Path, typer.Argument(help="Folder of the bundle.")]


@release.command()
def sign(
    bundle: BundleArgument,
    sequence: Annotated[int, typer.Option(help="Higher than that of every release before.")],
    trust: Annotated[Path, typer.Option(help="Trust folder from `pi0-edge keys init`.")] = Path("trust"),
    hardware: Annotated[
        list[str] | None, typer.Option(help="Kind of computer that it may run on; may be repeated. Else any.")
    ] = None,
    sdk_range: Annotated[
        str | None,
        typer.Option("--sdk", help='Versions of pi0-edge that run it; else its minor line, such as ">=0.1,<0.2".'),
    ] = None,
    firmware_image: Annotated[Path | None, typer.Option(help="Image for the microcontroller.")] = None,
    firmware_board: Annotated[str | None, typer.Option(help="Board that the image is for.")] = None,
    firmware_protocol: Annotated[
        int | None, typer.Option(help="Version of the serial link that the firmware must speak; else this one's.")
    ] = None,
    firmware_limits_hash: Annotated[
        str | None, typer.Option(help="Hash of the joint table, decimal or 0x…; else that of the bundle's robot.")
    ] = None,
    sdk_folder: Annotated[
        Path | None, typer.Option(help="Folder with requirements.txt and the wheels that it locks.")
    ] = None,
    expires_months: Annotated[
        int | None, typer.Option(help="How long robots install it; else as the trust folder was made.")
    ] = None,
    release_key: Annotated[
        Path | None, typer.Option(help="File of the release key, where it is kept elsewhere.")
    ] = None,
    accept_failed_gate: Annotated[
        bool, typer.Option("--accept-failed-gate", help="Sign a bundle whose accuracy gate failed or is missing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a bundle whole, and write the signed statement beside it, into BUNDLE.release.

    The same bundle with a higher sequence is a newer release: this is how robots go back to it on purpose.
    """
    from pi0_edge.deploy.trust import StatementOptions, TrustFolder, read_release, sign_release

    out = Output(as_json)
    options = StatementOptions(
        hardware=tuple(hardware or ()) or StatementOptions.hardware,
        sdk=sdk_range,
        firmware_board=firmware_board,
        firmware_protocol=firmware_protocol,
        firmware_limits_hash=_whole_number(firmware_limits_hash),
        accept_failed_gate=accept_failed_gate,
    )
    sign_release(
        bundle,
        sequence,
        trust=trust,
        options=options,
        firmware_image=firmware_image,
        sdk_folder=sdk_folder,
        expires_months=expires_months,
        release_key=release_key,
    )
    out.finish(_show(bundle, read_release(bundle, TrustFolder(trust).roots()[0]), True, out))


@release.command()
def show(
    bundle: BundleArgument,
    trust: Annotated[Path | None, typer.Option(help="Refuse what the keys of this trust folder did not sign.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what the statement about a bundle says, which keys signed it, and until when robots install it."""
    from pi0_edge.deploy.trust import TrustFolder, read_release

    out = Output(as_json)
    root = None if trust is None else TrustFolder(trust).roots()[0]
    out.finish(_show(bundle, read_release(bundle, root), root is not None, out))


def _whole_number(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text, 0)
    except ValueError as error:
        raise ConfigError(f"--firmware-limits-hash {text!r}: expected a whole number such as 0x1a2b3c4d") from error


def _show(bundle: Path, signed: SignedRelease, is_trusted: bool, out: Output) -> dict[str, Any]:
    """Prints a statement, and returns what was printed."""
    statement = signed.release
    firmware = statement.firmware
    keys = {name: f"{name} {short}" for name, short in {**signed.root_keys, **signed.release_keys}.items()}
    rows = [
        ("release", statement.id),
        ("sequence", str(statement.sequence)),
        ("robot", statement.robot),
        ("hardware", ", ".join(statement.hardware)),
        ("SDK", statement.sdk),
        (
            "firmware",
            "any"
            if firmware is None
            else f"protocol {firmware.protocol_version}, joint table {firmware.limits_hash:#010x}"
            + (f", image for {firmware.board}" if firmware.board else ""),
        ),
        ("signed files", ", ".join(f"{name} ({record.size} bytes)" for name, record in sorted(signed.targets.items()))),
        ("signed by", ", ".join(keys[name] for name in signed.release_keys)),
        ("root", f"{signed.root_version}: {signed.root_threshold} of {', '.join(keys[n] for n in signed.root_keys)}"),
        ("expires", signed.expires.date().isoformat() + (": robots refuse it" if signed.is_expired else "")),
    ]
    out.table(str(bundle), ("what", "value"), rows)
    if not is_trusted:
        out.print("verified with the root that it brings itself: compare the fingerprints, or give --trust")
    return {
        **statement.to_dict(),
        "release": statement.id,
        "targets": signed.targets,
        "expires": signed.expires.isoformat(),
        "expired": signed.is_expired,
        "timestamp_version": signed.timestamp_version,
        "root_version": signed.root_version,
        "root_threshold": signed.root_threshold,
        "root_keys": signed.root_keys,
        "release_keys": signed.release_keys,
        "verified_with_trust_folder": is_trusted,
    }
