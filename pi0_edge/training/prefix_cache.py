"""Keys and values of a frozen prefix, computed once per observation and kept in memory and in files.

Images and prompt of an observation go through vision tower and prefix, which is most of the work of a training step of
the expert; while both are frozen, the result never changes. At full size an observation of three cameras takes 15 MB
in bf16: what does not fit into memory goes to a folder of the run, and what fits into neither is computed each time.

Each observation is computed alone, without the padding of a batch: its result does not depend on its neighbours.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pi0_edge.model import ModelInputs, PolicyNetwork
from pi0_edge.model.gemma import KeyValues
from pi0_edge.model.pi0 import Context
from pi0_edge.training.sources import Batch


class PrefixCache:
    """Prefixes of the observations of one run.

    Attributes:
        computed: How many were computed.
        found: How many were taken from memory or files.
    """

    def __init__(self, folder: Path | None, memory_bytes: int, disk_bytes: int = 0) -> None:
        """Begins empty.

        Args:
            folder: A folder of its own is made there, and removed at the end; None keeps no files.
            memory_bytes: Of prefixes in memory.
            disk_bytes: Of prefixes in files.
        """
        self.computed = 0
        self.found = 0
        self._memory: dict[tuple[str, str], Tensor] = {}
        self._files: dict[tuple[str, str], Path] = {}
        self._memory_left = memory_bytes
        self._disk_left = disk_bytes if folder is not None else 0
        if folder is not None and disk_bytes:
            folder.mkdir(parents=True, exist_ok=True)
            self._folder = tempfile.TemporaryDirectory(prefix="prefixes-", dir=folder)

    def context(self, model: PolicyNetwork, batch: Batch) -> Context:
        """What `model.attend_prefix(batch.inputs)` gives, without gradients."""
        rows = [self._row(model, batch, row) for row in range(batch.inputs.batch)]
        lengths = torch.tensor([row.shape[2] for row in rows])
        longest = int(lengths.max())
        stacked = rows[0].new_zeros(len(rows), *rows[0].shape[:2], longest, *rows[0].shape[3:])
        for place, row in enumerate(rows):
            stacked[place, :, :, : row.shape[2]] = row
        ragged = bool((lengths != longest).any())
        layers = [KeyValues(stacked[:, layer, 0], stacked[:, layer, 1]) for layer in range(stacked.shape[1])]
        return Context(layers, lengths, torch.arange(longest) < lengths[:, None] if ragged else None)

    def _row(self, model: PolicyNetwork, batch: Batch, row: int) -> Tensor:
        """Keys and values of one observation [layers, 2, tokens, kv_heads, head_dim]."""
        key = (batch.source, batch.keys[row])
        if key in self._memory:
            self.found += 1
            return self._memory[key]
        if key in self._files:
            self.found += 1
            return load_file(self._files[key])["prefix"]
        self.computed += 1
        with torch.no_grad():
            context = model.attend_prefix(_one(batch.inputs, row))
        prefix = torch.stack([torch.stack((layer.keys[0], layer.values[0])) for layer in context.layers])
        self._keep(key, prefix)
        return prefix

    def _keep(self, key: tuple[str, str], prefix: Tensor) -> None:
        size = prefix.nbytes
        if size <= self._memory_left:
            self._memory_left -= size
            self._memory[key] = prefix
        elif size <= self._disk_left:
            self._disk_left -= size
            path = Path(self._folder.name) / f"{len(self._files)}.safetensors"
            save_file({"prefix": prefix}, path)
            self._files[key] = path


def _one(inputs: ModelInputs, row: int) -> ModelInputs:
    """One observation of a batch."""
    one = slice(row, row + 1)
    return ModelInputs(
        inputs.images[one], inputs.image_mask[one], inputs.tokens[one], inputs.token_mask[one], inputs.state[one]
    )
