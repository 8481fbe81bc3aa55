"""Observations from image files and files of numbers, and chunks into files that a program reads."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pi0_edge.errors import ObservationError
from pi0_edge.output_paths import check_output_path
from pi0_edge.synced_files import save_synced

CHUNK_SUFFIXES = (".npz", ".json")


def read_images(arguments: Sequence[str]) -> dict[str, NDArray[np.uint8]]:
    """Images by camera, from CAMERA=FILE.

    Raises:
        ObservationError: If an argument has another form, names a camera again, or its file is no image.
    """
    images: dict[str, NDArray[np.uint8]] = {}
    for argument in arguments:
        camera, separator, file = argument.partition("=")
        if not (camera and separator and file) or camera in images:
            raise ObservationError(f"--image {argument!r}: expected CAMERA=FILE, such as top=a.png, once per camera")
        images[camera] = _read_image(Path(file))
    return images


def read_state(text: str) -> NDArray[np.float64]:
    """The state from numbers, or from a .npy, .json or text file of numbers.

    Raises:
        ObservationError: If it is neither.
    """
    try:
        return _parse_state(text)
    except (OSError, ValueError) as error:
        raise ObservationError(
            f'--state {text[:80]!r}: {error}; expected numbers such as "0 -0.5 1.2", or a file of them'
        ) from error


def check_chunk_path(path: Path | None) -> None:
    """Raises `ConfigError` where a chunk cannot be written to `path`, before any work is done."""
    check_output_path("--output", path, CHUNK_SUFFIXES)


def write_chunk(path: Path, actions: NDArray[np.float64], names: Sequence[str]) -> None:
    """Writes "actions" [horizon, action_dim] and "names" to a path that `check_chunk_path` has passed."""
    content = io.BytesIO()
    if path.suffix == ".npz":
        np.savez(content, actions=actions, names=np.array(names))
    else:
        content.write((json.dumps({"actions": actions.tolist(), "names": list(names)}) + "\n").encode())
    save_synced(path, content.getvalue())


def _read_image(file: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, Image.DecompressionBombError) as error:
        raise ObservationError(f"{file} is not a readable image ({error}); expected PNG, JPEG or the like") from error


def _parse_state(text: str) -> NDArray[np.float64]:
    file = Path(text)
    if file.suffix == ".npy":
        return np.load(file, allow_pickle=False)
    if file.suffix == ".json":
        return np.array(json.loads(file.read_text()), np.float64)
    if file.suffix in (".txt", ".csv"):
        text = file.read_text()
    return np.array([float(number) for number in text.replace(",", " ").split()])
