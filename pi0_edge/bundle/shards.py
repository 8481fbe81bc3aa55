"""Weights as safetensors files that can be mapped: written tensor by tensor, read without a copy.

A shard is a plain safetensors file; any reader of that format opens it. Ours are written so that they suit mapping:

* The data begin on a page, and every tensor whose size is a multiple of 64 bytes lies on a multiple of 64: a cache
  line, a vector register, a CUDA transaction. The others (single scales) come last, on multiples of their own item.
* A shard holds up to 256 MiB, or one larger tensor (the token embedding), so that threads share the hashing evenly.
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

from pi0_edge.bundle.manifest import SHARD, FileRecord
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
    """Writes all tensors, in the order of their names.

    Args:
        folder: Exists.
        state: Tensors by name. It may compute them when they are asked for: each is asked for once, and at most one
            shard is in memory at a time.
        shard_bytes: How much one shard holds at most, unless a single tensor is larger.

    Returns:
        The files, by name.

    Raises:
        BundleError: If a tensor has a dtype that bundles do not store.
        OSError: If a file cannot be written.
    """
    records: dict[str, FileRecord] = {}
    for tensors in _shards(((name, state[name]) for name in sorted(state)), shard_bytes):
        name = SHARD.format(len(records))
        records[name] = _write(folder / name, tensors)
    return records


def map_shards(paths: Iterable[Path]) -> dict[str, Tensor]:
    """All tensors of some shards, as views of the mapped files: nothing is read before it is used.

    The mapping is private: whoever writes into a tensor changes his own copy of that page, never the file.

    Raises:
        BundleError: If a file is not safetensors, or two hold a tensor of the same name.
    """
    tensors: dict[str, Tensor] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as shard:
                found = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError) as error:
            raise BundleError(f"{path.name} is not a safetensors file ({error}); build the bundle again") from error
        if twice := sorted(found.keys() & tensors.keys()):
            raise BundleError(f"{path.name} holds {twice[0]}, which another shard has as well; build the bundle again")
        tensors |= found
    return tensors


def _shards(state: Iterable[tuple[str, Tensor]], limit: int) -> Iterator[dict[str, Tensor]]:
    """Groups of tensors that fill a shard."""
    tensors: dict[str, Tensor] = {}
    size = 0
    for name, tensor in state:
        if tensor.dtype not in _DTYPES:
            raise BundleError(f"{name} has the dtype {tensor.dtype}, a bundle stores {', '.join(_DTYPES.values())}")
        if tensors and size + tensor.nbytes > limit:
            yield tensors
            tensors, size = {}, 0
        tensors[name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
    if tensors:
        yield tensors


def _write(path: Path, tensors: Mapping[str, Tensor]) -> FileRecord:
    names = sorted(tensors, key=lambda n: (tensors[n].nbytes % ALIGNMENT != 0, -tensors[n].element_size(), n))
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
