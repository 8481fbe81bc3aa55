"""LeRobotDataset folders: what is written is read back, real v2.1 recordings open, damage is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pi0_edge.errors import DatasetError, MissingDependencyError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pi0_edge.datasets import lerobot_writer
    from pi0_edge.datasets.feature_statistics import image_histogram, image_statistics, pooled, vector_statistics
    from pi0_edge.datasets.lerobot_reader import LeRobotDataset
    from pi0_edge.datasets.lerobot_writer import LeRobotWriter
except (MissingDependencyError, ModuleNotFoundError) as error:
    pytest.skip(str(error), allow_module_level=True)

G1 = Path(__file__).parents[1] / "data" / "g1_recording"
BY_LEROBOT = Path(__file__).parents[1] / "data" / "lerobot_v30"
NAMES = ["waist", "elbow", "gripper"]
SIZE = (32, 48)
LENGTHS = (9, 14, 11, 5, 7)


def smooth_images(frames, seed):
    """Images as a camera makes them: a gradient with a red square that moves."""
    ramp = np.linspace(30, 90, SIZE[1], dtype=np.uint8)
    images = np.broadcast_to(ramp[None, None, :, None], (frames, *SIZE, 3)).copy()
    for tick, image in enumerate(images):
        row, column = 4 + (seed * 3) % 16, 2 + 2 * tick
        image[row : row + 8, column : column + 8] = (220, 20, 20)
    return images


def an_episode(frames, seed):
    values = np.random.default_rng(seed).normal(size=(2, frames, len(NAMES))).astype(np.float32)
    return values[0], values[1], {"top": smooth_images(frames, seed)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Five episodes, two to a file, two tasks."""
    root = tmp_path_factory.mktemp("dataset") / "cube"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lerobot_writer, "EPISODES_PER_FILE", 2)
        with LeRobotWriter(root, 50, NAMES, {"top": SIZE}, "aloha") as writer:
            for seed, frames in enumerate(LENGTHS):
                writer.add_episode(*an_episode(frames, seed), task="Transfer cube" if seed % 2 == 0 else "Wait")
    return root


@pytest.fixture
def copy(written, tmp_path):
    """A copy that a test may damage."""
    for path in (path for path in written.rglob("*") if path.is_file()):
        target = tmp_path / path.relative_to(written)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path


def test_round_trip_of_values_tasks_and_lengths(written):
    dataset = LeRobotDataset(written)
    assert (dataset.version, dataset.fps, dataset.cameras) == ("v3.0", 50, ("top",))
    assert dataset.tasks == ("Transfer cube", "Wait")
    assert [episode.length for episode in dataset.episodes] == list(LENGTHS)
    assert [episode.tasks for episode in dataset.episodes][:2] == [("Transfer cube",), ("Wait",)]
    for seed, frames in enumerate(LENGTHS):
        state, action, _ = an_episode(frames, seed)
        found = dataset.episode(seed)
        np.testing.assert_array_equal(found.state, state)
        np.testing.assert_array_equal(found.action, action)


@pytest.mark.parametrize("camera", ["top", "observation.images.top"])
def test_round_trip_of_images_frame_by_frame(written, camera):
    dataset = LeRobotDataset(written)
    for seed, frames in reversed(list(enumerate(LENGTHS))):
        expected = smooth_images(frames, seed).astype(int)
        found = np.stack(list(dataset.frames(seed, camera)))
        assert found.dtype == np.uint8 and found.shape == expected.shape
        assert np.abs(found - expected).mean() < 1.0
        assert np.abs(found - np.roll(expected, 1, axis=0)).mean() > 2.0, "a neighbouring frame would not fit"


def test_statistics_are_those_of_all_frames(written):
    stats = LeRobotDataset(written).stats
    states = np.concatenate([an_episode(frames, seed)[0] for seed, frames in enumerate(LENGTHS)]).astype(np.float64)
    np.testing.assert_allclose(stats["observation.state"]["mean"], states.mean(0))
    np.testing.assert_allclose(stats["observation.state"]["std"], states.std(0))
    np.testing.assert_allclose(stats["observation.state"]["q99"], np.quantile(states, 0.99, axis=0))
    assert stats["observation.state"]["count"].tolist() == [sum(LENGTHS)]
    assert stats["observation.images.top"]["mean"].shape == (3, 1, 1)


def test_layout_is_lerobots_v30(written):
    info = json.loads((written / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["splits"] == {"train": f"0:{len(LENGTHS)}"}
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (5, sum(LENGTHS), 2)
    assert {"timestamp", "frame_index", "episode_index", "index", "task_index"} <= info["features"].keys()
    files = sorted(str(path.relative_to(written)) for path in written.rglob("file-*.*"))
    video = "videos/observation.images.top/chunk-000/file-00{}.mp4"
    data = "data/chunk-000/file-00{}.parquet"
    expected = [data.format(i) for i in range(3)] + [video.format(i) for i in range(3)]
    assert files == sorted([*expected, "meta/episodes/chunk-000/file-000.parquet"])
    rows = pq.read_table(written / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["dataset_from_index"] for row in rows] == [0, *np.cumsum(LENGTHS)[:-1].tolist()]
    assert [row["videos/observation.images.top/file_index"] for row in rows] == [0, 0, 1, 1, 2]
    start, stop = (rows[1][f"videos/observation.images.top/{edge}_timestamp"] for edge in ("from", "to"))
    assert (start, stop) == pytest.approx((LENGTHS[0] / 50, (LENGTHS[0] + LENGTHS[1]) / 50))
    assert len(rows[0]["stats/action/q10"]) == len(NAMES)
    frames = pq.read_table(written / data.format(1))
    assert frames["index"].to_pylist() == list(range(LENGTHS[0] + LENGTHS[1], sum(LENGTHS[:4])))
    assert frames.schema.field("action").type == pa.list_(pa.float32(), len(NAMES))
    pandas = json.loads(pq.read_schema(written / "meta/tasks.parquet").metadata[b"pandas"])
    assert pandas["index_columns"] == ["task"]


def test_real_v21_recording_with_av1_video(tmp_path):
    dataset = LeRobotDataset(G1)
    assert (dataset.version, dataset.fps, len(dataset.episodes)) == ("v2.1", 30, 2)
    assert dataset.tasks == ("Pick up the yellow bottle on the table.",)
    state, action = dataset.episode(1)
    assert state.shape == action.shape == (80, 26)
    assert dataset.stats["action"]["mean"].shape == (26,)
    low, high = dataset.stats["action"]["min"] - 1e-5, dataset.stats["action"]["max"] + 1e-5
    assert ((action >= low) & (action <= high)).all()
    images = list(dataset.frames(1, "cam_high"))
    assert len(images) == dataset.info(1).length == 80
    assert {image.shape for image in images} == {(480, 640, 3)}
    assert images[0].std() > 20 and 1 < np.abs(images[0].astype(int) - images[70]).mean() < 50
    shutil.copytree(G1, tmp_path, dirs_exist_ok=True)
    (tmp_path / "data/chunk-000/episode_000000.parquet").unlink()
    with pytest.raises(DatasetError, match=r"episode_000000\.parquet is missing"):
        LeRobotDataset(tmp_path).episode(0)


def test_v30_dataset_written_by_lerobot_itself():
    """Written by lerobot 0.4.4: state (episode, tick), action half more, colour (20 + 40 episode, 10 tick, 128)."""
    dataset = LeRobotDataset(BY_LEROBOT)
    assert (dataset.version, dataset.fps, dataset.tasks, dataset.cameras) == ("v3.0", 30, ("Open", "Close"), ("front",))
    assert [(one.length, one.tasks) for one in dataset.episodes] == [(6, ("Open",)), (7, ("Close",)), (8, ("Open",))]
    for info in dataset.episodes:
        ticks = np.arange(info.length, dtype=np.float32)
        state, action = dataset.episode(info.index)
        np.testing.assert_array_equal(state, np.stack([np.full_like(ticks, info.index), ticks], axis=1))
        np.testing.assert_array_equal(action, state + 0.5)
        colours = np.stack([image.mean((0, 1)) for image in dataset.frames(info.index, "front")])
        expected = np.stack([np.full_like(ticks, 20 + 40 * info.index), 10 * ticks, np.full_like(ticks, 128)], axis=1)
        assert np.abs(colours - expected).max() < 3


def test_unknown_camera_and_episode_are_named(written):
    dataset = LeRobotDataset(written)
    with pytest.raises(DatasetError, match=r"unknown camera 'wrist'; .* has top"):
        dataset.frames(0, "wrist")
    with pytest.raises(DatasetError, match="has no episode 5; it has 5"):
        dataset.episode(5)


def test_folder_that_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"info\.json cannot be read"):
        LeRobotDataset(tmp_path)


def read_everything(root):
    dataset = LeRobotDataset(root)
    assert dataset.stats
    for episode in dataset.episodes:
        dataset.episode(episode.index)
        for _ in dataset.frames(episode.index, "top"):
            pass


@pytest.mark.parametrize("keep", [0.0, 0.4, 0.95])
@pytest.mark.parametrize(
    "name",
    [
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "data/chunk-000/file-001.parquet",
        "videos/observation.images.top/chunk-000/file-001.mp4",
    ],
)
def test_truncated_file_is_named(copy, name, keep):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DatasetError, match=Path(name).name):
        read_everything(copy)


@pytest.mark.parametrize("name", ["meta/tasks.parquet", "data/chunk-000/file-001.parquet"])
def test_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(DatasetError, match=Path(name).name):
        read_everything(copy)


def test_missing_video_is_named(copy):
    (copy / "videos/observation.images.top/chunk-000/file-002.mp4").unlink()
    with pytest.raises(DatasetError, match=r"file-002\.mp4 is missing"):
        read_everything(copy)


def test_video_with_too_few_frames_is_named(copy):
    folder = copy / "videos/observation.images.top/chunk-000"
    (folder / "file-001.mp4").write_bytes((folder / "file-002.mp4").read_bytes())
    with pytest.raises(
        DatasetError, match=r"file-001\.mp4: row 7 of episode 2 is of 0\.1400 s in it, but the nearest .* 0\.1200 s"
    ):
        read_everything(copy)


def test_metadata_without_a_key_is_damaged(copy):
    info = json.loads((copy / "meta/info.json").read_text())
    del info["data_path"]
    (copy / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(DatasetError, match="meta is damaged: KeyError 'data_path'"):
        LeRobotDataset(copy)


def replace_column(path, name, values):
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(name), name, values), path)


def test_values_that_are_not_finite_or_not_there_are_refused(copy):
    path = copy / "data/chunk-000/file-000.parquet"
    rows = pq.read_table(path)["action"].to_pylist()
    rows[3][1] = float("nan")
    replace_column(path, "action", pa.array(rows, pa.list_(pa.float32())))
    with pytest.raises(DatasetError, match=r"action in episode 0 .* not finite"):
        LeRobotDataset(copy).episode(0)
    rows[3] = rows[3][:2]
    replace_column(path, "action", pa.array(rows, pa.list_(pa.float32())))
    with pytest.raises(DatasetError, match=r"action in episode 0 has shape"):
        LeRobotDataset(copy).episode(0)
    rows[3] = None
    replace_column(path, "action", pa.array(rows, pa.list_(pa.float32())))
    with pytest.raises(DatasetError, match=r"action in episode 0 has shape"):
        LeRobotDataset(copy).episode(0)


def test_writer_refuses_a_folder_in_use(written):
    with pytest.raises(DatasetError, match="is not empty"):
        LeRobotWriter(written, 50, NAMES, {"top": SIZE}, "aloha")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, a, p: (s[:-1], a, p), "action has shape"),
        (lambda s, a, p: (s[:, :2], a, p), "observation.state has shape"),
        (lambda s, a, p: (s, a, {"top": p["top"][:, :16]}), "observation.images.top has shape"),
        (lambda s, a, p: (s, a, {"side": p["top"]}), "an episode has"),
        (lambda s, a, p: (s * np.nan, a, p), "not finite"),
        (lambda s, a, p: (s[:0], a[:0], {"top": p["top"][:0]}), "has shape"),
    ],
)
def test_writer_refuses_an_episode_that_does_not_fit(tmp_path, change, message):
    with pytest.raises(DatasetError, match=message), LeRobotWriter(tmp_path, 50, NAMES, {"top": SIZE}, "a") as writer:
        writer.add_episode(*change(*an_episode(6, 0)), task="t")
    with pytest.raises(DatasetError, match=r"info\.json cannot be read"):
        LeRobotDataset(tmp_path)


def test_empty_recording_is_no_dataset(tmp_path):
    with pytest.raises(DatasetError, match="no episode was recorded"):
        LeRobotWriter(tmp_path / "x", 50, NAMES, {"top": SIZE}, "aloha").close()


def test_pooled_statistics_equal_those_of_the_whole():
    values = np.random.default_rng(0).normal(size=(50, 4))
    whole = vector_statistics(values)
    found = pooled([vector_statistics(values[:13]), vector_statistics(values[13:])])
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(found[name], whole[name])


def test_image_statistics_equal_those_of_the_pixels():
    images = np.random.default_rng(0).integers(3, 200, size=(7, 6, 5, 3), dtype=np.uint8)
    found = image_statistics(image_histogram(images), 7)
    pixels = images.reshape(-1, 3) / 255.0
    np.testing.assert_allclose(found["mean"].ravel(), pixels.mean(0))
    np.testing.assert_allclose(found["std"].ravel(), pixels.std(0))
    np.testing.assert_allclose(found["min"].ravel(), pixels.min(0))
    np.testing.assert_allclose(found["q50"].ravel(), np.quantile(pixels, 0.5, axis=0, method="inverted_cdf"))
