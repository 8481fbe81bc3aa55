"""`pi0-edge bundle`: keys, signatures, and what a bundle is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pi0_edge.cli.options import JsonOption, PublicKeyOption
from pi0_edge.cli.output import Output

if TYPE_CHECKING:
    from pi0_edge.bundle import Bundle

bundle = typer.Typer(no_args_is_help=True, help="Show, verify and sign bundles; make keys.")

FolderArgument = Annotated[Path, typer.Argument(help="Folder of the bundle.")]


@bundle.command()
def show(folder: FolderArgument, public_key: PublicKeyOption = None, as_json: JsonOption = False) -> None:
    """Say what a bundle is, once every byte of it is verified."""
    from pi0_edge.bundle import open_bundle

    out = Output(as_json)
    opened = open_bundle(folder, public_key=public_key)
    description = _description(opened, public_key)
    out.table(str(folder), ("what", "value"), [(name.replace("_", " "), _text(v)) for name, v in description.items()])
    out.finish(description)


@bundle.command()
def verify(folder: FolderArgument, public_key: PublicKeyOption = None, as_json: JsonOption = False) -> None:
    """Check every byte of a bundle, and its signature where a key is given.

    Says nothing about its accuracy gate: `show` does.
    """
    from pi0_edge.bundle import open_bundle

    out = Output(as_json)
    opened = open_bundle(folder, public_key=public_key)
    files = opened.manifest.files
    size = sum(record.size for record in files.values())
    signed = "no key given, so no signature was checked" if public_key is None else f"signed by {public_key}"
    out.print(f"{folder} is complete and unchanged: {len(files)} files, {size / 1e6:.1f} MB; {signed}")
    out.finish({"sha256": opened.sha256, "files": len(files), "bytes": size, "signed_by": public_key})


@bundle.command()
def sign(
    folder: FolderArgument,
    private_key: Annotated[Path, typer.Option(help="Private key (PEM) from `pi0-edge bundle keygen`.")],
    as_json: JsonOption = False,
) -> None:
    """Sign a bundle, in place of an earlier signature."""
    from pi0_edge.bundle import sign_bundle

    out = Output(as_json)
    sign_bundle(folder, private_key)
    out.print(f"{folder} is signed; robots check it with --public-key")
    out.finish({"signed": folder})


@bundle.command()
def keygen(
    private_key: Annotated[Path, typer.Argument(help="Where the private key goes, such as robot.pem; keep it safe.")],
    public_key: Annotated[Path, typer.Argument(help="Where the public key goes, such as robot.pub.pem.")],
    as_json: JsonOption = False,
) -> None:
    """Make a key pair (Ed25519): sign with the private key, give the public one to the robots."""
    from pi0_edge.bundle import write_key_pair

    out = Output(as_json)
    write_key_pair(private_key, public_key)
    out.print(f"{private_key} signs bundles, whoever has it can; {public_key} belongs on the robots")
    out.finish({"private_key": private_key, "public_key": public_key})


def _description(opened: Bundle, public_key: Path | None) -> dict[str, Any]:
    manifest, profile = opened.manifest, opened.training_profile()
    return {
        "model": opened.config.kind,
        "scheme": opened.scheme.name,
        "robot": manifest.processing.robot.get("name"),
        "gate": opened.gate,
        "gate_reasons": list(opened.gate_reasons),
        "calibration": manifest.calibration,
        "training_data": None if profile is None else profile.summary,
        "tokenizer": manifest.tokenizer,
        "size_mb": round(sum(record.size for record in manifest.files.values()) / 1e6, 1),
        "shards": len(manifest.shards),
        "made_by": manifest.tools,
        "checkpoint_sha256": manifest.source_sha256,
        "sha256": opened.sha256,
        "signature": "not checked" if public_key is None else f"of {public_key}",
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
