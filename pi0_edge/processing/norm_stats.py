"""openpi's norm_stats.json: {"norm_stats": {"state": {mean, std, q01, q99}, "actions": {…}}}, lists of floats.

Its path is `norm_stats.json`, or `assets/<asset id>/norm_stats.json` where an asset id names a robot ("trossen") or a
data set ("physical-intelligence/libero") and may contain slashes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pi0_edge.errors import ConfigError
from pi0_edge.synced_files import save_synced

NAME = "norm_stats.json"
FIELDS = ("state", "actions")

FieldStats = dict[str, NDArray[np.float64]]


def load_norm_stats(path: str | Path, asset_id: str | None = None) -> dict[str, FieldStats]:
    """Reads statistics.

    Args:
        path: A norm_stats.json, or a checkpoint folder.
        asset_id: Which asset of the folder; needed only where it has several.

    Returns:
        "state" and "actions", each {"mean": float64 [dims], "std": …, …}.

    Raises:
        ConfigError: If there are none, several without an asset id, or the file is not of this format.
    """
    file = find_norm_stats(Path(path), asset_id)
    if file is None:
        raise ConfigError(
            f"{path} has no {NAME} (nor assets/<id>/{NAME}); give the statistics the policy was made with"
        )
    try:
        content = json.loads(file.read_text())["norm_stats"]
        return {field: _arrays(content[field]) for field in FIELDS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{file} is not in openpi's format ({error!r}); expected "
            '{"norm_stats": {"state": {"mean": […], "std": […], "q01": […], "q99": […]}, "actions": {…}}}'
        ) from error


def find_norm_stats(path: Path, asset_id: str | None) -> Path | None:
    """The statistics file of a checkpoint folder, or None.

    Raises:
        ConfigError: If the folder has several assets and none or an unknown one was named.
    """
    if path.is_file():
        return path
    if asset_id is None and (path / NAME).is_file():
        return path / NAME
    found = {file.parent.relative_to(path / "assets").as_posix(): file for file in path.glob(f"assets/**/{NAME}")}
    if asset_id is not None and asset_id in found:
        return found[asset_id]
    if asset_id is not None or len(found) > 1:
        raise ConfigError(
            f"{path} has statistics for {sorted(found)}, asked for {asset_id}; name one of them as asset id"
        )
    return next(iter(found.values()), None)


def save_norm_stats(path: str | Path, stats: Mapping[str, Mapping[str, ArrayLike]]) -> None:
    """Writes statistics in openpi's format; the file appears complete or not at all."""
    save_synced(Path(path), (json.dumps({"norm_stats": to_json(stats)}, indent=2) + "\n").encode())


def to_json(stats: Mapping[str, Mapping[str, ArrayLike]]) -> dict[str, dict[str, list[float]]]:
    """The same statistics as lists."""
    return {
        field: {n: np.asarray(v, np.float64).tolist() for n, v in values.items()} for field, values in stats.items()
    }


def _arrays(values: Mapping[str, list[float] | None]) -> FieldStats:
    return {name: np.asarray(value, np.float64) for name, value in values.items() if value is not None}
