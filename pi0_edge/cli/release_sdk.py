"""`pi0-edge release sdk`: the packages that a robot needs, with a list of their SHA-256."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output

_WHEELS = Path("dist")


def sdk(
    target: Annotated[str, typer.Option(help="Kind of computer, such as jetpack7; another name lists them all.")],
    output: Annotated[Path, typer.Option(help="Folder to make, or to bring up to date.")],
    wheel: Annotated[
        Path | None, typer.Option(help="Wheel of pi0-edge; else the one in dist/, where `make release` puts it.")
    ] = None,
    python: Annotated[str | None, typer.Option(help="Python of the computer, where the target has several.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch the packages that a robot needs into a folder, for an installation without a network."""
    from pi0_edge.deploy.sdk.folder import make_sdk_folder
    from pi0_edge.deploy.sdk.targets import find_target
    from pi0_edge.errors import DeployError

    out = Output(as_json)
    found = find_target(target)
    if wheel is None:
        built = sorted(_WHEELS.glob(f"pi0_edge-*_{found.processor}.whl"), key=lambda path: path.stat().st_mtime)
        if not built:
            raise DeployError(f"{_WHEELS} holds no wheel of pi0-edge for {found.processor}: make release, or --wheel")
        wheel = built[-1]
    with out.progress() as on_progress:
        made = make_sdk_folder(found, output, wheel, python, out.print, on_progress)
    total = sum(made.sizes.values())
    largest = sorted(made.sizes.items(), key=lambda item: -item[1])[:8]
    versions = {entry.name: entry.version for entry in made.lock.wheels}
    rows = [(name, versions[name], round(size / 1e6, 1)) for name, size in largest]
    out.table("the largest packages", ("package", "version", "MB"), rows)
    out.print(f"{output}: {len(made.sizes)} wheels, {total / 1e6:.0f} MB, {len(made.fetched)} of them fetched now")
    if found.torch is None:
        out.print(f"torch is not among them: it comes with the system of {found.is_for}")
    out.finish(
        {
            "folder": output,
            "target": found.name,
            "python": made.lock.python,
            "version": made.lock.version,
            "packages": versions,
            "bytes": total,
            "fetched": list(made.fetched),
        }
    )
