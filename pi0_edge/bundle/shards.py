"""Weights as safetensors files that can be mapped: written tensor by tensor, read without a copy.

A shard is a plain safetensors file; any reader of that format opens it. Ours are written so that they suit mapping:

* A shard holds tensors of one dtype. It stays in memory as long as one of its tensors does: an engine that packs the
  int8 matrices for its processor keeps their float32 scales, and must not keep the matrices with them.
* A shard holds up to 256 MiB, or one larger tensor (the token embedding): threads share the hashing evenly, and what is
  being packed is in memory twice only for one shard.
* The data begin on a page, and every tensor whose size is a multiple of 64 bytes starts at a multiple of 64: a cache
  line, a vector register, a CUDA transaction. The few others (single scales) come last.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pi0_edge.bundle.file_list import FileRecord
from pi0_edge.errors import BundleError

SHARD_BYTES = 256 * 2**20
PAGE = 4096
ALIGNMENT = 64

_DTYPES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int32: "I32",
    torch.int64: "I64",
}


def write_shards(folder: Path, state: Mapping[str, Tensor], shard_bytes: int = SHARD_BYTES) -> dict[str, FileRecord]:
    """Writes all tensors; which shard they are in depends on names, dtypes and sizes only.

    Args:
        folder: Exists.
        state: Tensors by name. It may compute them when they are asked for: each is asked for once, in the order of
            names, and at most one shard per dtype is in memory at a time.
        shard_bytes: How much one shard holds at most, unless a single tensor is larger.

    Returns:
        The files, by name.

    Raises:
        BundleError: If a tensor has a dtype that bundles do not store.
        OSError: If a file cannot be written.
    """
    records: dict[str, FileRecord] = {}
    counts = dict.fromkeys(_DTYPES, 0)
    for dtype, tensors in _shards(state, shard_bytes):
        name = f"weights-{_DTYPES[dtype].lower()}-{counts[dtype]:05d}.safetensors"
        counts[dtype] += 1
        records[name] = _write(folder / name, tensors)
    return records


def map_shards(paths: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    """All tensors of some shards by name, as views of the mapped files: nothing is read before it is used.

    A shard is unmapped when its last tensor is dropped. The mapping is private: writing into a tensor changes
    his own copy of that page, never the file.

    Raises:
        BundleError: If a file is not safetensors, or two hold a tensor of the same name.
    """
    seen: set[str] = set()
    for path in paths:
        try:
            with safe_open(path, framework="pt") as shard:
                for name in shard.keys():  # noqa: SIM118 - not a dict
                    if name in seen:
                        raise BundleError(f"{path.name} holds {name}, which another shard has too; build it again")
                    seen.add(name)
                    yield name, shard.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise BundleError(f"{path.name} is not a safetensors file ({error}); build the bundle again") from error


def _shards(state: Mapping[str, Tensor], limit: int) -> Iterator[tuple[torch.dtype, dict[str, Tensor]]]:
    """Groups of tensors that fill a shard, each of one dtype."""
    groups: dict[torch.dtype, dict[str, Tensor]] = {}
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        if tensor.dtype not in _DTYPES:
            raise BundleError(f"{name} has the dtype {tensor.dtype}, a bundle stores {', '.join(_DTYPES.values())}")
        group = groups.setdefault(tensor.dtype, {})
        if group and sum(held.nbytes for held in group.values()) + tensor.nbytes > limit:
            yield tensor.dtype, groups.pop(tensor.dtype)
        groups.setdefault(tensor.dtype, {})[name] = tensor
    yield from groups.items()


def _write(path: Path, tensors: Mapping[str, Tensor]) -> FileRecord:
    names = sorted(tensors, key=lambda name: (tensors[name].nbytes % ALIGNMENT != 0, name))
    header = _header({name: tensors[name] for name in names})
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for part in (header, *(_bytes(tensors[name]) for name in names)):
            file.write(part)
            digest.update(part)
            size += len(part)
        file.flush()
        os.fsync(file.fileno())
    return FileRecord(digest.hexdigest(), size)


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    """Length and table of a safetensors file, filled up with spaces to a whole page."""
    table, begin = {}, 0
    for name, tensor in tensors.items():
        end = begin + tensor.nbytes
        table[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % PAGE)
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
