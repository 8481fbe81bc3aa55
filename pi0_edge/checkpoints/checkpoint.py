"""A checkpoint: how large its network is, whether every parameter is there, and a stream of them.

Peak memory while loading is the model itself plus one block of rows (PyTorch layouts) or one stored chunk (orbax). The
largest arrays are read first, while most of the model's own memory is still untouched, so that a chunk of an orbax
checkpoint does not come on top of a full model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from pi0_edge.checkpoints.layout import TOWERS, Layout, Location, StoredParameters, TensorSource, count_layers
from pi0_edge.checkpoints.sizes import Sizes, infer_config
from pi0_edge.errors import CheckpointError, ConfigError
from pi0_edge.model.config import Pi0Config, Variant

BLOCK_BYTES = 8 * 2**20
"""Rows are copied in blocks of this size; every block opens the file anew, see `safetensors_source`."""

LISTED = 5
"""How many differences an error lists."""


class Checkpoint:
    """The parameters of one π0 or π0.5 network in files.

    Attributes:
        path: The path that was opened.
        folder: Where the side files are (config.json, statistics, tokenizer).
        layout: Name of the naming layout, see `pi0_edge.checkpoints`.
        variant: "pi0" or "pi05", detected from the keys.
    """

    def __init__(self, path: Path, folder: Path, source: TensorSource, layout: Layout, recorded: Sizes) -> None:
        """Joins a source with its layout.

        Args:
            path: Of the checkpoint.
            folder: Where its side files are.
            source: The stored arrays.
            layout: Where each parameter is stored in `source`.
            recorded: Sizes in the config.json of the folder.

        Raises:
            CheckpointError: If the keys are of neither or of both variants.
        """
        self.path = path
        self.folder = folder
        self.layout = layout.name
        self._stored = StoredParameters(source, layout, str(path))
        self._recorded = recorded
        self.variant: Variant = _detect_variant(self._stored)

    def infer_config(self, overrides: Mapping[str, Any] | None = None) -> Pi0Config:
        """The sizes of the network.

        Args:
            overrides: Sizes as in a SIZES file (nested or flat); needed only for what neither the weights nor a
                config.json hold. They replace what a config.json records, and must agree with the weights.

        Raises:
            ConfigError: If a size is missing (the message names it) or contradicts the weights.
            CheckpointError: If a parameter whose shape shows a size is missing.
        """
        return infer_config(self._stored, self.variant, self._recorded, overrides or {})

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Compares the stored arrays with the parameters a model has.

        Args:
            shapes: Shape of every parameter of the model.

        Raises:
            CheckpointError: One error for everything that is missing, surplus or wrongly shaped.
        """
        problems = _differences(self._stored, shapes)
        if problems:
            listed = "".join(f"\n  {problem}" for problem in problems[:LISTED])
            more = f"\n  and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
            raise CheckpointError(
                f"{self.path} ({self.layout}, {self.variant}) does not fit the network, {len(problems)} tensor(s) "
                f"differ:{listed}{more}\nGive the sizes it was made with, or another checkpoint."
            )

    def tensors(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Streams parameters in their stored dtype, largest array first.

        Each tensor may be a view of a mapped file: copy what must outlive the iteration, and drop the view before the
        next one to keep memory low.

        Raises:
            CheckpointError: If a name is not stored.
        """
        source = self._stored.source
        try:
            for name, location in self._in_reading_order(names):
                rows = location.rows(source.entries[location.key])
                yield name, location.parameter(source.read_rows(location.key, *rows))
        finally:
            source.release()

    def dtypes(self, names: Iterable[str]) -> dict[str, torch.dtype]:
        """In which dtype each of these parameters is stored, as `tensors` gives it.

        Raises:
            CheckpointError: If a name is not stored.
        """
        entries = self._stored.source.entries
        return {name: entries[self._stored.locate(name).key].dtype for name in names}

    def load_into(self, model: nn.Module) -> None:
        """Checks the checkpoint against the model and copies every parameter, converting to the parameter's dtype.

        Args:
            model: A `Pi0` whose parameters are allocated; those kept in another dtype than stored are converted.

        Raises:
            CheckpointError: As `check`; the model is then untouched.
            ConfigError: If parameters of the model are on the meta device.
        """
        parameters = dict(model.named_parameters())
        self.check({name: tuple(parameter.shape) for name, parameter in parameters.items()})
        if any(parameter.is_meta for parameter in parameters.values()):
            raise ConfigError("the model has parameters on the meta device; call model.to_empty(device=...) first")
        try:
            for name, location in self._in_reading_order(parameters):
                self._copy(location, parameters[name])
        finally:
            self._stored.source.release()

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every stored tensor by the name that its writer gave it, needed or not."""
        return {key: entry.shape for key, entry in self._stored.source.entries.items()}

    def parameters_by_tensor(self, names: Iterable[str]) -> dict[str, list[tuple[str, Location]]]:
        """Which of our parameters each stored tensor holds: several where it stacks layers.

        Raises:
            CheckpointError: If a name is not stored.
        """
        found: dict[str, list[tuple[str, Location]]] = {}
        for name in names:
            location = self._stored.locate(name)
            found.setdefault(location.key, []).append((name, location))
        return found

    def source_hashes(self) -> dict[str, str]:
        """sha256 of every weight file, by path relative to the folder; those of an adapter's base by their own path."""
        return {
            str(file.relative_to(self.folder) if file.is_relative_to(self.folder) else file): _sha256(file)
            for file in self._stored.source.files()
        }

    @torch.no_grad()
    def _copy(self, location: Location, parameter: nn.Parameter) -> None:
        source, entry = self._stored.source, self._stored.source.entries[location.key]
        if location.layer is not None or location.arrange is not None:
            parameter.copy_(location.parameter(source.read_rows(location.key, *location.rows(entry))))
            return
        rows = parameter.shape[0]
        step = max(1, BLOCK_BYTES * rows // max(1, entry.bytes))
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            parameter[start:stop].copy_(source.read_rows(location.key, start, stop))

    def _in_reading_order(self, names: Iterable[str]) -> list[tuple[str, Location]]:
        located = [(name, self._stored.locate(name)) for name in names]
        entries = self._stored.source.entries
        return sorted(located, key=lambda item: (-entries[item[1].key].bytes, item[1].key, item[1].layer or 0))


def _detect_variant(stored: StoredParameters) -> Variant:
    keys, locate = stored.source.entries, stored.layout.locate
    adaptive = locate("expert.layers.0.attention_norm.modulation.weight").key in keys
    present = {"pi05": adaptive, "pi0": locate("state_proj.weight").key in keys}
    found = [variant for variant, is_present in present.items() if is_present]
    if len(found) != 1:
        raise CheckpointError(
            f"{stored.origin} ({stored.layout.name}) is neither π0 nor π0.5: expected either "
            f"{locate('state_proj.weight').key} (π0) or adaptive norms in the expert (π0.5), "
            f"found {'both' if found else 'neither'} among {len(keys)} tensors"
        )
    return cast(Variant, found[0])


def _differences(stored: StoredParameters, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What is missing, wrongly shaped or surplus, one sentence each."""
    entries, layout = stored.source.entries, stored.layout
    depths = {tower: count_layers(shapes, f"{tower}.layers.") for tower in TOWERS}
    located = {name: layout.locate(name) for name in shapes}
    problems = [_difference(stored, name, location, shapes[name], depths) for name, location in located.items()]
    used = {location.key for location in located.values()}
    surplus = [key for key in entries if key not in used and not layout.unused(key, depths["prefix"])]
    problems += [f"surplus {key} {list(entries[key].shape)}, expected no such tensor" for key in surplus]
    return [problem for problem in problems if problem]


def _difference(
    stored: StoredParameters, name: str, location: Location, shape: tuple[int, ...], depths: Mapping[str, int]
) -> str | None:
    """What is wrong with one parameter, or None."""
    if not stored.holds(location):
        return f"missing {location}, expected shape {list(shape)}"
    entry = stored.source.entries[location.key]
    found = location.shape(entry)
    if found != shape:
        return f"{location} has shape {list(found)}, expected {list(shape)}"
    if location.layer == 0 and entry.shape[0] > depths[name.split(".")[0]]:
        return f"{location.key} has {entry.shape[0]} layers, expected {depths[name.split('.')[0]]}"
    if not entry.dtype.is_floating_point or entry.dtype.itemsize == 1:
        return f"{location} has dtype {entry.dtype}, expected a floating-point type of 16 bits or more"
    return None


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(2**20):
            digest.update(block)
    return digest.hexdigest()
