"""The images of a folder, in the order of their names, at a rate, again and again.

The folder is read anew each round, and each file when it is due: a program that writes images there is a camera.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from pi0_edge.cameras.pacing import Pacing
from pi0_edge.cameras.source import DamagedImageError, LostCameraError, Picture, Source
from pi0_edge.errors import CameraError, MissingDependencyError
from pi0_edge.robots import CameraSettings

try:
    from PIL import Image
except ImportError as error:
    raise MissingDependencyError(f"image files need Pillow ({error}): pip install 'pi0-edge[cameras]'") from error

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
USUAL_FPS = 30.0


class ImageFolder(Source):
    """Image files."""

    def __init__(self, settings: CameraSettings) -> None:
        """Opens it.

        Raises:
            CameraError: If there is no such folder, or no image in it.
        """
        self._folder = Path(settings.address)
        self.fps = settings.fps or USUAL_FPS
        self._pacing, self._count = Pacing(), 0
        self._left: list[Path] = []
        if not self._files():
            raise CameraError(f"{self._folder} holds no image, expected a folder with {', '.join(SUFFIXES)}")

    def read(self) -> Picture | None:
        """The next file once it is due."""
        if not self._pacing.wait(self._count / (self.fps or USUAL_FPS)):
            return None
        path = self._next_file()
        self._count += 1
        try:
            with Image.open(path, formats=FORMATS) as image:
                pixels, kind = np.asarray(image.convert("RGB")), f"{image.format} {image.mode}"
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DamagedImageError(f"{path} is no image that can be read: {error}") from error
        return Picture(pixels, time.monotonic_ns(), None, None, kind)

    def close(self) -> None:
        """Nothing is held open."""

    def _next_file(self) -> Path:
        """The next file of this round that is still there, or the first of the next round."""
        self._left = [path for path in self._left if path.exists()] or self._files()
        if not self._left:
            raise LostCameraError(f"{self._folder} holds no image any more")
        return self._left.pop(0)

    def _files(self) -> list[Path]:
        try:
            return sorted(path for path in self._folder.iterdir() if path.suffix.lower() in SUFFIXES)
        except OSError:
            return []
