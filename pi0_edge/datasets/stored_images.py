"""Images that a dataset keeps in its rows: PNG or JPEG, ``struct<bytes, path>``, as Hugging Face's `Image` writes them.

A value may hold the file itself, or the path of one in the dataset folder, or, written by others, be only one of both.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pi0_edge.datasets.lerobot_metadata import opened_parquet
from pi0_edge.errors import DatasetError, MissingDependencyError

try:
    from PIL import Image, UnidentifiedImageError
except ImportError as error:
    raise MissingDependencyError(f"stored images need Pillow ({error}): pip install 'pi0-edge[policy]'") from error

_ROWS_AT_A_TIME = 32
_FORMATS = ("PNG", "JPEG")
"""What datasets store; Pillow would start another program for some formats that it knows."""
_COLOUR_MODES = ("RGB", "RGBA", "P", "L", "YCbCr", "CMYK")
"""Of Pillow; the others hold depth or more than eight bits."""


def read_stored(
    path: Path, root: Path, key: str, episode: int, rows: Collection[int] | None
) -> Iterator[NDArray[np.uint8]]:
    """Yield the images of some rows of an episode, uint8 (height, width, 3).

    Args:
        path: The parquet file, which may hold several episodes.
        root: Folder of the dataset, where paths start.
        key: The feature.
        episode: Its number.
        rows: Which rows of the episode; None for all.

    Raises:
        DatasetError: The file or the column is missing, or an image is missing or damaged.
    """
    first = 0
    with opened_parquet(path) as file:
        if key not in file.schema_arrow.names:
            raise DatasetError(f"{path} has no column {key}, which meta/info.json names; fetch the dataset again")
        for batch in file.iter_batches(_ROWS_AT_A_TIME, columns=[key, "episode_index"]):
            # In two steps, as the column of images may be large.
            values = batch.column(0).filter(pc.equal(batch.column(1), episode))  # pyright: ignore
            for row, value in enumerate(values, start=first):
                if rows is None or row in rows:
                    yield decode_stored(value.as_py(), root, f"{path}: {key} in row {row} of episode {episode}")
            first += len(values)


def decode_stored(value: Any, root: Path, name: str) -> NDArray[np.uint8]:
    """The image in one value, uint8 (height, width, 3).

    Args:
        value: ``{"bytes": bytes | None, "path": str | None}``, bytes, or a path.
        root: Folder of the dataset, where paths start.
        name: What it is, for messages.

    Raises:
        DatasetError: It is missing, damaged, or no colour image of eight bits.
    """
    content = _content(value, root, name)
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            mode = image.mode
            pixels = np.asarray(image.convert("RGB")) if mode in _COLOUR_MODES else None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{name} is not a complete image ({error}); fetch the dataset again") from error
    if pixels is None:
        raise DatasetError(f"{name} has pixels of the kind {mode}; expected a colour image of 8 bits")
    return pixels


def _content(value: Any, root: Path, name: str) -> bytes:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        raise DatasetError(f"{name} is missing: neither bytes nor a path; fetch the dataset again")
    place = PurePosixPath(value)
    if place.is_absolute() or ".." in place.parts:
        raise DatasetError(f"{name} is the file {value}, outside the dataset; expected its bytes or a path in {root}")
    try:
        return (root / place).read_bytes()
    except OSError as error:
        raise DatasetError(f"{name} is the file {root / place}, which cannot be read ({error})") from error
