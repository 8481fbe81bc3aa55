"""Reads safetensors files, one or sharded, without ever holding more than the rows that were asked for.

safetensors maps the file into memory, and mapped pages that were touched count as resident for as long as the file is
open. The file is therefore opened anew for every read: what a read touched is given back before the next one.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pi0_edge.checkpoints.layout import Entry
from pi0_edge.errors import CheckpointError

INDEX = "model.safetensors.index.json"

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


class SafetensorsSource:
    """The tensors of one safetensors file, or of the shards that an index file lists."""

    def __init__(self, path: Path) -> None:
        """Reads the headers only.

        Args:
            path: A .safetensors file or a model.safetensors.index.json.

        Raises:
            CheckpointError: If a file is missing, truncated, not safetensors, or an index contradicts its shards.
        """
        self.path = path
        self.entries = _read_index(path) if path.name.endswith(".json") else _read_header(path)

    def read_rows(self, key: str, start: int, stop: int) -> Tensor:
        """Rows of one tensor; the returned view keeps the file mapped until it is dropped."""
        file = self.entries[key].file
        try:
            with safe_open(file, framework="pt") as opened:
                return opened.get_slice(key)[start:stop]
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: {key} cannot be read any more ({error}); was the file replaced?") from error

    def release(self) -> None:
        """Nothing is kept between reads."""

    def files(self) -> list[Path]:
        """The shards."""
        return sorted({entry.file for entry in self.entries.values()})


def _read_header(path: Path) -> dict[str, Entry]:
    _refuse_truncated(path)
    try:
        with safe_open(path, framework="pt") as opened:
            slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118 - not a dict
            dtypes = {key: _dtype(path, key, stored.get_dtype()) for key, stored in slices.items()}
            return {key: Entry(tuple(stored.get_shape()), dtypes[key], path) for key, stored in slices.items()}
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a valid safetensors file ({error}); download or export it again"
        ) from error


def _dtype(path: Path, key: str, name: str) -> torch.dtype:
    if name not in _DTYPES:
        raise CheckpointError(f"{path}: {key} has the dtype {name}, expected one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _refuse_truncated(path: Path) -> None:
    """Compares the file size with the end of the last tensor, to say how much is missing."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; expected a safetensors file there")
    found = path.stat().st_size
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0] if found >= 8 else 0
        header = file.read(length) if 2 <= length <= found - 8 else b""
    try:
        tensors = {key: value for key, value in json.loads(header).items() if key != "__metadata__"}
        ends = {key: 8 + length + int(value["data_offsets"][1]) for key, value in tensors.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise CheckpointError(
            f"{path} has no complete safetensors header (the file has {found} bytes); it is truncated or of another "
            "format: download or export it again"
        ) from error
    cut = sorted((end, key) for key, end in ends.items() if end > found)
    if cut:
        raise CheckpointError(
            f"{path} is truncated: expected {cut[-1][0]} bytes, found {found}, so {len(cut)} tensor(s) are incomplete, "
            f"the first is {cut[0][1]}; download or copy the file again"
        )


def _read_index(path: Path) -> dict[str, Entry]:
    try:
        weight_map: dict[str, str] = dict(json.loads(path.read_text())["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a safetensors index ({error!r}); expected a weight_map in it") from error
    for name in weight_map.values():
        if Path(name).name != name:
            raise CheckpointError(f"{path}: the shard {name!r} is outside the folder; expected a plain file name")
    shards = {name: _read_header(path.parent / name) for name in sorted(set(weight_map.values()))}
    absent = [key for key, shard in weight_map.items() if key not in shards[shard]]
    if absent:
        raise CheckpointError(
            f"{path.parent / weight_map[absent[0]]} lacks {absent[0]} and {len(absent) - 1} more tensor(s) that "
            f"{path.name} expects in it; download the shards again"
        )
    return {key: entry for shard in shards.values() for key, entry in shard.items()}
