"""Reads orbax checkpoints (openpi's JAX weights) through tensorstore, without JAX.

An orbax folder is a set of zarr arrays, named by their dot-joined keys, in one OCDBT key-value store. The names and
shapes are taken from the store itself and not from orbax's `_METADATA`, whose fields changed between its versions.
Arrays of a checkpoint that was written by one process are stored as one chunk for all layers, so a chunk is decoded
once and kept until rows of another chunk are asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pi0_edge.checkpoints.layout import Entry
from pi0_edge.errors import CheckpointError, MissingDependencyError

ROOT = "params."
VALUE = ".value"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


class OrbaxSource:
    """The arrays under `params`, named without that root and without the `value` leaf that training adds."""

    def __init__(self, folder: Path) -> None:
        """Lists the arrays of the orbax item in `folder`.

        Raises:
            CheckpointError: If the store is damaged or holds no arrays.
            MissingDependencyError: If tensorstore is not installed.
        """
        self.path = folder
        self._tensorstore = _import_tensorstore()
        self._stores = {_short(name): self._open(name) for name in self._names()}
        if not self._stores:
            raise CheckpointError(f"{folder} holds no zarr arrays; expected the params folder of a JAX checkpoint")
        self.entries = {key: self._entry(key, store) for key, store in self._stores.items()}
        self._chunk: tuple[str, int, np.ndarray] | None = None

    def read_rows(self, key: str, start: int, stop: int) -> Tensor:
        """Rows of one array, cut from the chunk they are stored in."""
        store = self._stores[key]
        first, last = _chunk_range(store, start, stop)
        if self._chunk is None or self._chunk[:2] != (key, first) or len(self._chunk[2]) < last - first:
            self._chunk = None  # freed before the next one is decoded
            self._chunk = (key, first, self._decode(key, store[first:last]))
        return _to_torch(self._chunk[2][start - first : stop - first])

    def release(self) -> None:
        """Forgets the decoded chunk."""
        self._chunk = None

    def files(self) -> list[Path]:
        """Every file below the folder."""
        return sorted(path for path in self.path.rglob("*") if path.is_file())

    def _kvstore(self, below: str = "") -> dict[str, Any]:
        files = {"driver": "file", "path": f"{self.path.resolve()}/{below}"}
        if not (self.path / "manifest.ocdbt").is_file():
            return files
        return {"driver": "ocdbt", "base": {"driver": "file", "path": f"{self.path.resolve()}/"}, "path": below}

    def _names(self) -> list[str]:
        try:
            keys = self._tensorstore.KvStore.open(self._kvstore()).result().list().result()
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{self.path} is a damaged orbax store ({error}); copy it again") from error
        return sorted(key.decode()[: -len("/.zarray")] for key in keys if key.endswith(b"/.zarray"))

    def _open(self, name: str) -> Any:
        try:
            return self._tensorstore.open({"driver": "zarr", "kvstore": self._kvstore(f"{name}/")}, read=True).result()
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{self.path}: the array {name} cannot be opened ({error})") from error

    def _entry(self, key: str, store: Any) -> Entry:
        dtype = store.dtype.name
        if dtype not in _DTYPES:
            raise CheckpointError(f"{self.path}: {key} has the dtype {dtype}, expected one of {', '.join(_DTYPES)}")
        return Entry(tuple(store.shape), _DTYPES[dtype], self.path)

    def _decode(self, key: str, view: Any) -> np.ndarray:
        try:
            return view.read().result()
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{self.path}: {key} is incomplete or damaged ({error}); copy it again") from error


def _import_tensorstore() -> Any:
    try:
        import tensorstore
    except ImportError as error:
        raise MissingDependencyError(
            "JAX checkpoints are read with tensorstore, which is not installed: pip install 'pi0-edge[orbax]'"
        ) from error
    return tensorstore


def _short(name: str) -> str:
    return name.removeprefix(ROOT).removesuffix(VALUE)


def _chunk_range(store: Any, start: int, stop: int) -> tuple[int, int]:
    rows = store.chunk_layout.read_chunk.shape[0]
    return start // rows * rows, min(-(-stop // rows) * rows, store.shape[0])


def _to_torch(array: np.ndarray) -> Tensor:
    """Also for bfloat16, which NumPy knows only as a foreign dtype."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.ascontiguousarray(array).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
