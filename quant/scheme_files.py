"""Schemes by name and in YAML files."""

from __future__ import annotations

from pathlib import Path

import yaml

from pi0_edge.errors import QuantizationError
from pi0_edge.quant.schemes import Scheme, find_scheme
from pi0_edge.synced_files import save_synced

SUFFIXES = (".yaml", ".yml")


def load_scheme(scheme: Scheme | str | Path) -> Scheme:
    """A scheme by its name, from a YAML file of `Scheme.to_dict`, or as it is.

    Args:
        scheme: A name in `SCHEMES`, a path that ends in .yaml or .yml, or a scheme.

    Raises:
        QuantizationError: If there is none of this name, or the file holds none.
    """
    if isinstance(scheme, Scheme):
        return scheme
    path = Path(scheme)
    if path.suffix not in SUFFIXES:
        return find_scheme(str(scheme))
    try:
        return Scheme.from_dict(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise QuantizationError(f"cannot read the scheme {path}: {error}") from error


def save_scheme(scheme: Scheme, path: str | Path) -> None:
    """Writes a scheme as the YAML file that `load_scheme` reads."""
    save_synced(Path(path), yaml.safe_dump(scheme.to_dict(), sort_keys=False, allow_unicode=True).encode())
