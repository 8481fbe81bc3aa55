"""Tensors with a description in one safetensors file: the same bytes for the same content, complete or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from quant.errors import QuantizationError

_DESCRIPTION = "description"
"""The only metadata entry: safetensors writes several in random order."""


def write_statistics(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Writes `path`, replacing what is there, through a temporary file beside it.

    Raises:
        QuantizationError: If the folder does not exist or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    text = json.dumps(description, separators=(",", ":"), allow_nan=False)
    try:
        # Copies, because layers that share an input share its statistics, which safetensors refuses to write.
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, temporary, {_DESCRIPTION: text})
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise QuantizationError(f"cannot write {path} ({error}); is there such a folder, and space?") from error


def read_statistics(path: Path, kind: str, version: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description of a file.

    Raises:
        QuantizationError: If it is missing, truncated or no file of this kind and version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {}).get(_DESCRIPTION, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, ValueError) as error:
        raise QuantizationError(f"{path} is not a readable {kind} ({error}); run `pi0-edge calibrate`") from error
    found = description.get("kind"), description.get("version")
    if found != (kind, version):
        raise QuantizationError(f"{path} holds {found[0]} {found[1]}, expected {kind} {version}; calibrate again")
    return tensors, description
