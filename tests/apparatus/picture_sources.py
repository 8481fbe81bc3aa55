"""Pictures for cameras of tests: folders that a test writes into, and videos."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pi0_edge.datasets.video_files import VideoFileWriter


def noise(seed: int, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """What never repeats, uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class PictureFolder:
    """A folder that is a camera: its files are replaced as a program would replace them."""

    def __init__(self, path: Path, width: int = 64, height: int = 48) -> None:
        path.mkdir()
        self.path = path
        self.show_noise(width, height)

    def show_noise(self, width: int = 64, height: int = 48) -> None:
        """A good camera: eight pictures, each other than the last."""
        self.show([noise(seed, width, height) for seed in range(8)])

    def show(self, pictures: list[NDArray[np.uint8]], suffix: str = ".png") -> None:
        names = [f"{number:03}{suffix}" for number in range(len(pictures))]
        for name, picture in zip(names, pictures, strict=True):
            Image.fromarray(picture).save(self.path / f"next{suffix}.part", format=suffix[1:].replace("jpg", "jpeg"))
            os.replace(self.path / f"next{suffix}.part", self.path / name)
        for path in self.path.iterdir():
            if path.name not in names:
                path.unlink()

    def write(self, content: bytes) -> None:
        """Every file has this content."""
        for path in sorted(self.path.iterdir()):
            part = path.with_suffix(".part")
            part.write_bytes(content)
            os.replace(part, path)

    def take_away(self) -> None:
        os.rename(self.path, self.path.with_name("taken away"))

    def bring_back(self) -> None:
        os.rename(self.path.with_name("taken away"), self.path)


def write_video(path: Path, pictures: list[NDArray[np.uint8]], fps: int = 30) -> Path:
    height, width = pictures[0].shape[:2]
    writer = VideoFileWriter(path, fps, height, width)
    for picture in pictures:
        writer.write(picture)
    writer.close()
    return path
