"""Loads a policy as the options say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from pi0_edge.policy import Policy
    from pi0_edge.quant import Scheme


def load_policy(
    checkpoint: Path | None,
    engine: str,
    scheme: str | None = None,
    robot: str | None = None,
    tokenizer: Path | None = None,
    sizes: Path | None = None,
    threads: int | None = None,
    bundle: Path | None = None,
    public_key: Path | None = None,
    accept_failed_gate: bool = False,
) -> Policy:
    """The policy of a bundle or of a checkpoint, the shipped one where neither is given.

    Raises:
        ConfigError: If an option was given that does not go with the others.
        Pi0EdgeError: As `Policy.load` and `Policy.from_bundle`.
    """
    from pi0_edge.bundle.checksums import MANIFEST
    from pi0_edge.checkpoints import load_sizes
    from pi0_edge.errors import ConfigError
    from pi0_edge.policy import Policy
    from pi0_edge.shipped import shipped_checkpoint

    use_threads(threads)
    if bundle is not None:
        own = {"checkpoint": checkpoint, "scheme": scheme, "robot": robot, "tokenizer": tokenizer, "config": sizes}
        if given := [name for name, value in own.items() if value is not None]:
            raise ConfigError(f"--bundle brings its own {given[0]}; leave --{given[0]} out")
        return Policy.from_bundle(bundle, engine, public_key, accept_failed_gate)
    if public_key is not None or accept_failed_gate:
        raise ConfigError("--public-key and --accept-failed-gate are about a bundle; give --bundle with them")
    if checkpoint is not None and (checkpoint / MANIFEST).is_file():
        raise ConfigError(f"{checkpoint} is a bundle, not a checkpoint; give it as --bundle")
    found = shipped_checkpoint() if checkpoint is None else checkpoint
    return Policy.load(
        found,
        engine,
        None if scheme is None else load_scheme(scheme),
        robot,
        tokenizer,
        None if sizes is None else dict(load_sizes(sizes)),
    )


def load_scheme(scheme: str) -> Scheme:
    """A scheme by name, or from a YAML file of `Scheme.to_dict`.

    Raises:
        QuantizationError: If there is none of this name, or the file holds none.
    """
    from pi0_edge.quant import QuantizationError, Scheme, find_scheme

    if not scheme.endswith((".yaml", ".yml")):
        return find_scheme(scheme)
    try:
        return Scheme.from_dict(yaml.safe_load(Path(scheme).read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise QuantizationError(f"cannot read the scheme {scheme}: {error}") from error


def use_threads(threads: int | None) -> None:
    """Gives the network as many CPU threads."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
