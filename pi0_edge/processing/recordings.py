"""Observations in `.npz` files, as the policy server records them and as anyone may write them with `np.savez`.

    ================  =====================================  ========================================================
    key               array                                  meaning
    ================  =====================================  ========================================================
    images.<camera>   uint8 [frames, height, width, 3]       RGB; one key per camera of the robot layout
    state             float [frames, state_dim]              in the robot's own units and joint convention
    prompt            str [frames] or []                     optional; empty or absent is the robot's default
    tick              uint32 [frames]                        optional: firmware tick of the observation
    capture_time_ns   uint64 [frames]                        optional: when it was taken, host monotonic clock
    ================  =====================================  ========================================================

Images are read one at a time where they are stored uncompressed, as `np.savez` does, so a file may be larger than
memory. Nothing is pickled.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pi0_edge.errors import ObservationError
from pi0_edge.processing.observation import Observation
from pi0_edge.synced_files import replace_synced

IMAGES = "images."
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}

_DAMAGE = (OSError, EOFError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)


def write_observation_archive(path: Path, observation: Observation, tick: int, capture_time_ns: int) -> None:
    """Writes one observation; the file appears complete or not at all, whatever ends this process or the power.

    Raises:
        OSError: If it cannot be written; nothing is left behind then.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    arrays: dict[str, Any] = {f"{IMAGES}{camera}": image[None] for camera, image in observation.images.items()}
    arrays |= {"state": np.asarray(observation.state)[None], "prompt": np.array([observation.prompt or ""])}
    arrays |= {"tick": np.array([tick], np.uint32), "capture_time_ns": np.array([capture_time_ns], np.uint64)}
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        replace_synced(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


class ObservationArchive:
    """The observations of one file.

    Attributes:
        path: The file.
        frames: How many there are.
        cameras: Their names, sorted.

    Raises:
        ObservationError: If it is no such file, or its arrays do not fit together.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._damage_named(), zipfile.ZipFile(path) as file:
            keys = sorted(name.removesuffix(".npy") for name in file.namelist())
            self._state = _array(file, "state")
            prompts = _array(file, "prompt") if "prompt" in keys else np.array("")
            images = {key: _Images(file.open(f"{key}.npy")) for key in keys if key.startswith(IMAGES)}
        self.frames = self._state.shape[0] if self._state.ndim == 2 else 0
        self._expect("state", self._state, self.frames > 0, "numbers [frames, state_dim]")
        fits = prompts.dtype.kind == "U" and prompts.shape in ((), (self.frames,))
        self._expect("prompt", prompts, fits, f"str [{self.frames}] or []")
        for key, found in images.items():
            row_major = found.dtype == np.uint8 and not found.column_major
            fits = row_major and len(found.shape) == 4 and found.shape[::3] == (self.frames, 3)
            self._expect(key, found, fits, f"uint8 [{self.frames}, height, width, 3], row major")
        self._prompts = np.broadcast_to(prompts, self.frames)
        self.cameras = tuple(key.removeprefix(IMAGES) for key in images)

    def read(self, frames: Sequence[int], cameras: Iterable[str]) -> Iterator[Observation]:
        """The observations at `frames`, ascending, with the images of `cameras`.

        Raises:
            ObservationError: If the file is damaged.
        """
        with self._damage_named(), zipfile.ZipFile(self.path) as file:
            streams = {camera: _Images(file.open(f"{IMAGES}{camera}.npy")) for camera in cameras}
            for frame in frames:
                images = {camera: stream[frame] for camera, stream in streams.items()}
                yield Observation(images, self._state[frame], str(self._prompts[frame]) or None)

    def _expect(self, key: str, found: NDArray[Any] | _Images, fits: bool, expected: str) -> None:
        if not fits:
            raise ObservationError(f"{self.path}: {key} is {found.dtype} {list(found.shape)}, expected {expected}")

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            raise ObservationError(f"{self.path} is not a readable .npz file ({error}); write it again") from error


def _array(file: zipfile.ZipFile, key: str) -> NDArray[Any]:
    with file.open(f"{key}.npy") as member:
        return npy.read_array(member, allow_pickle=False)


class _Images:
    """An array in an opened file, of which single images are read."""

    def __init__(self, member: IO[bytes]) -> None:
        version = npy.read_magic(member)
        if version not in _HEADERS:
            raise ValueError(f"array format {version} is not known")
        self.shape, self.column_major, self.dtype = _HEADERS[version](member)
        self._member = member
        self._start = member.tell()

    def __getitem__(self, frame: int) -> NDArray[np.uint8]:
        size = int(np.prod(self.shape[1:]))
        self._member.seek(self._start + frame * size)
        content = self._member.read(size)
        if len(content) < size:
            raise EOFError(f"it ends within image {frame}")
        return np.frombuffer(content, np.uint8).reshape(self.shape[1:])
