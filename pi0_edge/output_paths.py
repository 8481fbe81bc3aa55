"""Checks of the places that results are written to, made before the work that leads to them."""

from __future__ import annotations

from pathlib import Path

from pi0_edge.errors import ConfigError


def check_output_path(name: str, path: str | Path | None, suffixes: tuple[str, ...] = ()) -> None:
    """Passes where a file can appear at `path`, or where `path` is None.

    Args:
        name: Argument or flag that gave the path; the message begins with it.
        path: Of the file.
        suffixes: How its name may end; anything where empty.

    Raises:
        ConfigError: If the name ends otherwise, or its folder does not exist.
    """
    if path is None:
        return
    path = Path(path)
    if suffixes and path.suffix not in suffixes:
        raise ConfigError(f"{name} {path}: expected a name that ends in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise ConfigError(f"{name} {path}: the folder {path.parent} does not exist; create it")
