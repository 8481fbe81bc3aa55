"""Recordings for the tests: images in which something moves, and the files that hold them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from policy_builders import DIMS

SIZE = (40, 60)


def moving_images(frames: int, first: int = 0) -> NDArray[np.uint8]:
    """uint8 [frames, 40, 60, 3]: a bright square that is elsewhere in every frame, with the noise of a camera."""
    rng = np.random.default_rng(first)
    images = rng.normal(90, 3, (frames, *SIZE, 3))
    for frame, image in enumerate(images, start=first):
        row, column = 2 * (frame * 7 % 16), 2 * (frame * 5 % 26)
        image[row : row + 8, column : column + 8] += 100
    return images.clip(0, 255).astype(np.uint8)


def states(frames: int, first: int = 0) -> NDArray[np.float64]:
    """[frames, 14], within the statistics of the policy of `policy_builders`."""
    return np.random.default_rng(first + 1).normal(0, 0.2, (frames, DIMS))


def recording(frames: int = 40, **changes: object) -> dict[str, NDArray[np.generic]]:
    """The arrays of one .npz file."""
    found: dict[str, object] = {"images.top": moving_images(frames), "state": states(frames), **changes}
    return {name: np.asarray(value) for name, value in found.items()}


def write_npz(path: Path, frames: int = 40, **changes: object) -> Path:
    """One .npz file of observations."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **recording(frames, **changes))  # pyright: ignore[reportArgumentType]
    return path
