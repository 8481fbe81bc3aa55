"""Observations in .npz files: what is written is read back, what does not fit is named, SIGKILL leaves whole files."""

import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pi0_edge.errors import ObservationError
from pi0_edge.processing import Observation
from pi0_edge.processing.recordings import ObservationArchive, write_observation_archive

FRAMES = 6


def arrays(**changes: object) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {
        "images.top": rng.integers(0, 256, (FRAMES, 20, 30, 3), np.uint8),
        "images.wrist": rng.integers(0, 256, (FRAMES, 10, 10, 3), np.uint8),
        "state": rng.normal(size=(FRAMES, 7)),
        "prompt": np.array([f"take {frame}" for frame in range(FRAMES)]),
    }
    found |= {name: np.asarray(value) for name, value in changes.items() if value is not None}
    return {name: value for name, value in found.items() if name not in changes or changes[name] is not None}


def write(folder: Path, content: dict[str, np.ndarray], compressed: bool = False) -> Path:
    path = folder / "observations.npz"
    (np.savez_compressed if compressed else np.savez)(path, **content)  # pyright: ignore[reportArgumentType]
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("frames", [[0], [1, 2, 5], list(range(FRAMES))])
def test_chosen_frames_come_back(tmp_path, compressed, frames):
    content = arrays()
    archive = ObservationArchive(write(tmp_path, content, compressed))
    assert (archive.frames, archive.cameras) == (FRAMES, ("top", "wrist"))
    found = list(archive.read(frames, ["wrist", "top"]))
    for frame, observation in zip(frames, found, strict=True):
        np.testing.assert_array_equal(observation.images["top"], content["images.top"][frame])
        np.testing.assert_array_equal(observation.images["wrist"], content["images.wrist"][frame])
        np.testing.assert_array_equal(observation.state, content["state"][frame])
        assert observation.prompt == f"take {frame}"


@pytest.mark.parametrize(("prompt", "expected"), [("tidy up", "tidy up"), ("", None), (None, None)])
def test_one_prompt_or_none_for_all_frames(tmp_path, prompt, expected):
    archive = ObservationArchive(write(tmp_path, arrays(prompt=prompt)))
    assert {observation.prompt for observation in archive.read([0, 3], ["top"])} == {expected}


def test_one_observation_as_the_recorder_writes_it(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    write_observation_archive(tmp_path / "1.npz", Observation({"top": image}, [1, 2, 3]), 7, 2**63)
    (found,) = ObservationArchive(tmp_path / "1.npz").read([0], ["top"])
    np.testing.assert_array_equal(found.images["top"], image)
    assert (np.asarray(found.state).tolist(), found.prompt) == ([1, 2, 3], None)
    with np.load(tmp_path / "1.npz", allow_pickle=False) as file:
        assert (file["tick"].tolist(), file["capture_time_ns"].tolist()) == ([7], [2**63])
    assert [path.name for path in tmp_path.iterdir()] == ["1.npz"]


BAD = {
    "state of one frame": ({"state": np.zeros(7)}, r"state is float64 \[7\], expected numbers \[frames, state_dim\]"),
    "no frames": ({"state": np.zeros((0, 7))}, r"state is float64 \[0, 7\]"),
    "no state": ({"state": None}, "state"),
    "state of objects": ({"state": np.array([[object()]])}, "not a readable .npz"),
    "float images": ({"images.top": np.zeros((FRAMES, 4, 4, 3))}, r"images.top is float64"),
    "another number": ({"images.top": np.zeros((2, 4, 4, 3), np.uint8)}, r"expected uint8 \[6, height, width, 3\]"),
    "channels first": ({"images.top": np.zeros((FRAMES, 3, 4, 4), np.uint8)}, r"images.top is uint8 \[6, 3, 4, 4\]"),
    "column major": ({"images.top": np.zeros((FRAMES, 4, 4, 3), np.uint8, "F")}, "row major"),
    "prompts of another number": ({"prompt": np.array(["a", "b"])}, r"prompt is <U1 \[2\], expected str \[6\]"),
    "prompt of numbers": ({"prompt": np.array(3)}, r"prompt is int64 \[\]"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_arrays_that_do_not_fit_are_named(tmp_path, change, message):
    with pytest.raises(ObservationError, match=message):
        ObservationArchive(write(tmp_path, arrays(**change)))


@pytest.mark.parametrize("keep", [0, 10, 5000, -1])
def test_a_truncated_file_is_named(tmp_path, keep):
    path = write(tmp_path, arrays())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ObservationError, match=r"observations.npz is not a readable .npz file"):
        ObservationArchive(path)


def test_other_files_are_named(tmp_path):
    np.save(tmp_path / "state.npz.npy", np.zeros(3))
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as file:
        file.writestr("readme.txt", "hello")
    for path in (tmp_path / "state.npz.npy", tmp_path / "other.npz", tmp_path / "absent.npz", tmp_path):
        with pytest.raises(ObservationError, match="not a readable"):
            ObservationArchive(path)


def test_an_image_that_is_damaged_after_opening_is_named(tmp_path):
    path = write(tmp_path, arrays(), compressed=True)
    archive = ObservationArchive(path)
    with zipfile.ZipFile(path) as file:
        start = file.getinfo("images.top.npy").header_offset
    content = bytearray(path.read_bytes())
    content[start + 400 : start + 700] = bytes(300)
    path.write_bytes(content)
    with pytest.raises(ObservationError, match="not a readable"):
        list(archive.read(range(FRAMES), ["top"]))


WRITER = """
import sys
from pathlib import Path
import numpy as np
from pi0_edge.processing import Observation
from pi0_edge.processing.recordings import write_observation_archive
image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
for number in range(100_000):
    write_observation_archive(Path(sys.argv[1]) / f"{number:06d}.npz", Observation({"top": image}, [0.0]), 0, 0)
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_only_whole_files(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(5):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    files = sorted(tmp_path.glob("*.npz"))
    assert len(files) >= 5
    for path in files:
        (found,) = ObservationArchive(path).read([0], ["top"])
        assert found.images["top"].shape == (480, 640, 3)
