"""`pi0-edge keys`: who may release to robots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output

if TYPE_CHECKING:
    from pi0_edge.deploy.trust import TrustFolder

keys = typer.Typer(no_args_is_help=True, help="Make, show and replace the keys that sign releases.")

FolderArgument = Annotated[Path, typer.Argument(help="The trust folder.")]


@keys.command()
def init(
    trust_folder: Annotated[Path, typer.Argument(help="Folder to make; whoever has all of it can release to robots.")],
    expires_months: Annotated[int, typer.Option(help="How long robots install a release after it was signed.")] = 12,
    root_keys: Annotated[int, typer.Option(help="How many root keys there are.")] = 3,
    root_threshold: Annotated[int, typer.Option(help="How many of them must sign to replace a key.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Make a trust folder: root keys, which say what key counts, and the release key, which signs releases.

    The same again leaves it as it is.
    """
    from pi0_edge.deploy.trust import init_trust

    out = Output(as_json)
    existed = trust_folder.exists()
    made = init_trust(trust_folder, expires_months=expires_months, root_keys=root_keys, root_threshold=root_threshold)
    if existed:
        out.print(f"{trust_folder} exists already and is what you ask for: nothing was changed")
    else:
        out.print(f"made {trust_folder}: now move its root keys to separate media, off the network, and keep copies")
    out.finish({"made": not existed, **_show(made, out)})


@keys.command()
def rotate(
    trust_folder: FolderArgument,
    replace: Annotated[
        str | None, typer.Option(help="Name of the key to replace, release or root-1, …; else only renews the root.")
    ] = None,
    with_: Annotated[
        Path | None,
        typer.Option("--with", help="Public key (PEM) in its place, if its private half is kept elsewhere."),
    ] = None,
    root_key: Annotated[
        list[Path] | None, typer.Option(help="File of a root key that signs; may be repeated. Else those in keys/.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Replace a key, or renew the root before it expires. Robots follow with the next release that they are sent.

    Bundles that a replaced release key signed must be signed again, with a higher sequence.
    """
    from pi0_edge.deploy.trust import TrustFolder, rotate_key

    out = Output(as_json)
    version = rotate_key(trust_folder, replace, new_public_key=with_, root_keys=root_key or None)
    what = "renewed" if replace is None else f"{replace} was replaced"
    out.print(f"{what}; root {version} counts from now on, and robots follow with the next release")
    out.finish({"replaced": replace, **_show(TrustFolder(trust_folder), out)})


@keys.command()
def show(trust_folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Say which keys count, and where their private halves lie."""
    from pi0_edge.deploy.trust import TrustFolder

    out = Output(as_json)
    out.finish(_show(TrustFolder(trust_folder), out))


def _show(folder: TrustFolder, out: Output) -> dict[str, Any]:
    """Prints the keys of a trust folder, and returns what was printed."""
    root, here = folder.root().signed, {signer.public_key.keyid for signer in folder.signers()}
    from pi0_edge.deploy.trust.keys import fingerprint, key_name

    found = sorted((key_name(key), fingerprint(key_id), key_id in here) for key_id, key in root.keys.items())
    threshold = root.roles["root"].threshold
    rows = [(name, short, "here" if is_here else "elsewhere") for name, short, is_here in found]
    out.table(f"keys of {folder.path}", ("name", "fingerprint", "private key"), rows)
    out.print(f"root {root.version}, valid until {root.expires.date()}: {threshold} root keys must sign the next one")
    return {
        "trust": folder.path,
        "root_version": root.version,
        "root_threshold": threshold,
        "root_expires": root.expires.isoformat(),
        "keys": {name: {"fingerprint": short, "here": is_here} for name, short, is_here in found},
    }
