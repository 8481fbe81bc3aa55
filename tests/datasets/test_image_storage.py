"""How cameras are described and their images stored: channels first or last, in videos, in the rows, beside them."""

import io

import numpy as np
import pytest
from PIL import Image

from pi0_edge.errors import DatasetError, MissingDependencyError

try:
    from dataset_builders import CAMERA, HEIGHT, WIDTH, picture, time_shown, write_dataset

    from pi0_edge.datasets.image_shapes import possible_shapes
    from pi0_edge.datasets.lerobot_reader import LeRobotDataset
except (MissingDependencyError, ModuleNotFoundError) as error:
    pytest.skip(str(error), allow_module_level=True)

ROWS = np.arange(40) / 30
PIXEL = 1 / 30


def encoded(time, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(picture(time)).save(file, kind, **options)
    return file.getvalue()


def values(kind="PNG", **options):
    return [{"bytes": encoded(time, kind, **options), "path": f"frame_{row:06d}.png"} for row, time in enumerate(ROWS)]


def images_of(root, rows=None, episode=0):
    return list(LeRobotDataset(root).frames(episode, "cam", rows))


CHANNELS_FIRST = {"shape": [3, HEIGHT, WIDTH], "names": ["channels", "height", "width"]}


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    "camera",
    [
        {},
        CHANNELS_FIRST,
        {"names": ["height", "width", "channel"]},
        {"names": ["height", "width", "rgb"]},
        {"shape": [3, HEIGHT, WIDTH], "names": ["channel", "height", "width"]},
        {"shape": [WIDTH, HEIGHT, 3], "names": ["width", "height", "channels"]},
        {"names": None},
        {"shape": [3, HEIGHT, WIDTH], "names": None},
        {"names": ["channels", "height", "width"]},  # against its own shape
    ],
)
def test_a_camera_is_read_in_whatever_order_its_axes_are_described(tmp_path, camera, stored):
    root = write_dataset(tmp_path / "ds", ROWS[:3], camera=camera, stored=values()[:3] if stored else None)
    assert [image.shape for image in images_of(root)] == [(HEIGHT, WIDTH, 3)] * 3


@pytest.mark.parametrize(
    "camera",
    [
        {"shape": [WIDTH, HEIGHT, 3]},
        {"shape": [3, WIDTH, HEIGHT], "names": ["channels", "height", "width"]},
        {"shape": [3, HEIGHT, WIDTH + 2], "names": None},
        {"shape": [HEIGHT, WIDTH, 1]},
        {"shape": [HEIGHT, WIDTH]},
        {"shape": None},
    ],
)
def test_images_of_another_size_than_described_are_refused(tmp_path, camera):
    root = write_dataset(tmp_path / "ds", ROWS[:3], camera=camera)
    with pytest.raises(DatasetError, match=r"has images 48 high and 96 wide in 3 colours, but meta/info\.json states"):
        images_of(root)


def test_names_decide_between_two_readings_and_sizes_where_there_are_none():
    assert possible_shapes({"shape": [3, 5, 3], "names": ["channels", "height", "width"]}) == ((5, 3, 3),)
    assert possible_shapes({"shape": [3, 5, 3], "names": ["height", "width", "channels"]}) == ((3, 5, 3),)
    assert set(possible_shapes({"shape": [3, 5, 3], "names": None})) == {(3, 5, 3), (5, 3, 3)}


@pytest.mark.parametrize("as_what", ["struct", "bytes", "no path"])
def test_images_in_the_rows_are_read_exactly(tmp_path, as_what):
    stored = values()
    if as_what == "bytes":
        stored = [value["bytes"] for value in stored]
    if as_what == "no path":
        stored = [{"bytes": value["bytes"], "path": None} for value in stored]
    root = write_dataset(tmp_path / "ds", ROWS, stored=stored, episodes=2)
    dataset = LeRobotDataset(root)
    assert dataset.cameras == ("cam",)
    for episode in (0, 1):
        np.testing.assert_array_equal(images_of(root, episode=episode), [picture(time) for time in ROWS])
    np.testing.assert_array_equal(images_of(root, [2, 35]), [picture(ROWS[2]), picture(ROWS[35])])
    assert dataset.episode(1).state.shape == (40, 2)


def test_jpeg_images_in_the_rows_are_read(tmp_path):
    root = write_dataset(tmp_path / "ds", ROWS, stored=values("JPEG", quality=95))
    found = np.array([time_shown(image) for image in images_of(root)])
    assert np.abs(found - ROWS).max() < PIXEL


def test_images_beside_the_rows_are_read(tmp_path):
    folder = tmp_path / "ds" / "images" / CAMERA / "episode_000000"
    folder.mkdir(parents=True)
    for row, time in enumerate(ROWS):
        (folder / f"frame_{row:06d}.png").write_bytes(encoded(time))
    names = [f"images/{CAMERA}/episode_000000/frame_{row:06d}.png" for row in range(40)]
    root = tmp_path / "ds"
    for stored in (names, [{"bytes": None, "path": name} for name in names]):
        write_dataset(root, ROWS, stored=stored)
        np.testing.assert_array_equal(images_of(root), [picture(time) for time in ROWS])
    (folder / "frame_000007.png").unlink()
    with pytest.raises(DatasetError, match=r"row 7 of episode 0 is the file .*frame_000007\.png, which cannot be read"):
        images_of(root)


def depth():
    file = io.BytesIO()
    Image.fromarray(np.full((HEIGHT, WIDTH), 40000, np.uint16)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"bytes": encoded(0)[:120], "path": None}, "is not a complete image"),
        ({"bytes": b"hello", "path": None}, "is not a complete image"),
        ({"bytes": None, "path": None}, "is missing: neither bytes nor a path"),
        (None, "is missing: neither bytes nor a path"),
        ({"bytes": None, "path": "/etc/hostname"}, "is the file /etc/hostname, outside the dataset"),
        ({"bytes": None, "path": "../a.png"}, "is the file ../a.png, outside the dataset"),
        ({"bytes": depth(), "path": None}, "has pixels of the kind I;16; expected a colour image of 8 bits"),
    ],
)
def test_a_damaged_image_is_named_with_its_row(tmp_path, value, message):
    stored = values()
    stored[5] = value
    root = write_dataset(tmp_path / "ds", ROWS, stored=stored)
    with pytest.raises(DatasetError, match=rf"episode_000000\.parquet: {CAMERA} in row 5 of episode 0 {message}"):
        images_of(root)
    assert len(images_of(root, [4, 6])) == 2


def test_images_of_another_size_in_the_rows_are_refused(tmp_path):
    root = write_dataset(tmp_path / "ds", ROWS, stored=values(), camera={"shape": [64, 64, 3]})
    with pytest.raises(DatasetError, match="has images 48 high and 96 wide"):
        images_of(root)


def test_a_column_of_images_that_is_not_there_is_named(tmp_path):
    root = write_dataset(tmp_path / "ds", ROWS, stored=values(), columns={CAMERA: None})
    with pytest.raises(DatasetError, match=rf"has no column {CAMERA}, which meta/info\.json names"):
        images_of(root)


def test_names_of_openpi_s_converters_are_read(tmp_path):
    """`image`, `state` and `actions`, without LeRobot's prefixes."""
    image = {"dtype": "image", "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channel"]}
    vector = {"dtype": "float32", "shape": [2], "names": ["state"]}
    features = {"image": image, "state": vector, "actions": {**vector, "names": ["actions"]}}
    moved = {"image": values(), "state": [[0.1, 0.2]] * 40, "actions": [[0.3, 0.4]] * 40}
    without = {CAMERA: None, "observation.state": None, "action": None}
    root = write_dataset(
        tmp_path / "ds", ROWS, stored=values(), info={"features": features}, columns={**moved, **without}
    )
    dataset = LeRobotDataset(root)
    assert dataset.cameras == ("image",)
    np.testing.assert_array_equal(next(dataset.frames(0, "image")), picture(0.0))
    state, action = dataset.episode(0)
    assert state[3].tolist() == pytest.approx([0.1, 0.2]) and action[3].tolist() == pytest.approx([0.3, 0.4])
