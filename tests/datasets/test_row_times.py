"""Rows and images belong together by time: whatever the rates, an image shows the moment of its row, or is refused."""

import json

import numpy as np
import pytest

from pi0_edge.errors import DatasetError, MissingDependencyError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from dataset_builders import CAMERA, TASK, time_shown, write_dataset, write_video

    from pi0_edge.datasets.lerobot_reader import LeRobotDataset
except (MissingDependencyError, ModuleNotFoundError) as error:
    pytest.skip(str(error), allow_module_level=True)

ROWS = np.arange(60) / 30
PIXEL = 1 / 30
"""What an image tells about its time, in seconds."""


def times_of(root, rows=None, episode=0):
    return np.array([time_shown(image) for image in LeRobotDataset(root).frames(episode, "cam", rows)])


@pytest.mark.parametrize(
    ("video", "off"),
    [
        (np.arange(60) / 30, 0.0),
        (np.arange(120) / 60, 0.0),  # another rate
        (np.arange(100) / 50, 0.010),
        (np.arange(60) / 29.97, 0.002),
        (np.arange(90) / 30, 0.0),  # goes on after the rows
        (np.sort(np.r_[ROWS, ROWS[:-1] + np.linspace(0.004, 0.03, 59)]), 0.0),  # irregular, but with one at each row
        (ROWS + np.random.default_rng(0).uniform(0, 0.012, 60), 0.012),  # variable rate
    ],
    ids=["same", "twice", "50 of 30", "NTSC", "longer", "irregular", "variable"],
)
def test_the_image_of_a_row_is_the_one_taken_nearest_to_it(tmp_path, video, off):
    root = write_dataset(tmp_path / "ds", ROWS, video_times=video)
    found = times_of(root)
    assert len(found) == 60
    assert np.abs(found - ROWS).max() <= off + PIXEL / 2 + 1e-3
    picked = times_of(root, [3, 50])
    np.testing.assert_array_equal(picked, found[[3, 50]])


def test_a_video_of_twice_the_rate_shows_the_row_fifty_at_its_own_time(tmp_path):
    root = write_dataset(tmp_path / "ds", ROWS, video_times=np.arange(120) / 60)
    assert times_of(root)[50] == pytest.approx(50 / 30, abs=PIXEL / 2)


@pytest.mark.parametrize(
    ("video", "row", "of", "nearest"),
    [
        (np.arange(60) / 60, 31, "1.0333", "0.983"),  # as many images, but in half the time
        (np.arange(60) / 15, 1, "0.0333", "0.0000"),  # as many images, in twice the time
        (np.arange(55) / 30, 55, "1.8333", "1.8000"),  # too short
        (ROWS + 0.5, 0, "0.0000", "0.5000"),  # starts late
        (np.delete(ROWS, [20, 21]), 20, "0.6667", "0.633"),  # has a gap
    ],
    ids=["faster", "slower", "short", "late", "gap"],
)
def test_a_row_without_an_image_of_its_time_is_refused_with_both_times(tmp_path, video, row, of, nearest):
    root = write_dataset(tmp_path / "ds", ROWS, video_times=video)
    message = rf"episode_000000\.mp4: row {row} of episode 0 is of {of} s in it, but the nearest image is of {nearest}"
    with pytest.raises(DatasetError, match=message):
        times_of(root)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (np.where(np.arange(60) == 7, ROWS[6], ROWS), r"row 7 is of 0\.2000 s and row 6 of 0\.2000 s"),
        (np.where(np.arange(60) == 7, 0.01, ROWS), r"row 7 is of 0\.0100 s and row 6 of 0\.2000 s"),
        (np.where(np.arange(60) == 7, np.nan, ROWS), "row 7 has no timestamp"),
        (ROWS[::-1], r"row 1 is of 1\.9333 s and row 0 of 1\.9667 s"),
        (ROWS / 2, r"its rows are 0\.0167 s apart, 60 per second, but meta/info\.json states 30 frames per second"),
        (np.zeros(60), r"row 1 is of 0\.0000 s"),
    ],
    ids=["duplicate", "back", "missing", "reversed", "rate", "zero"],
)
def test_rows_whose_times_cannot_be_true_are_refused(tmp_path, times, message):
    root = write_dataset(tmp_path / "ds", times, video_times=ROWS)
    with pytest.raises(DatasetError, match=rf"episode_000000\.parquet, episode 0: {message}"):
        times_of(root)


def test_rows_without_times_are_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"episode_000000\.parquet has no column timestamp"):
        times_of(write_dataset(tmp_path / "a", ROWS, columns={"timestamp": None}))
    nulls = [None if row == 4 else float(time) for row, time in enumerate(ROWS)]
    with pytest.raises(DatasetError, match="row 4 has no timestamp"):
        times_of(write_dataset(tmp_path / "b", ROWS, columns={"timestamp": nulls}))


def test_rows_of_irregular_times_get_the_images_of_these_times(tmp_path):
    times = np.cumsum(np.random.default_rng(1).uniform(0.025, 0.042, 50))
    root = write_dataset(tmp_path / "ds", times)
    assert np.abs(times_of(root) - times).max() <= PIXEL / 2 + 1e-3


def test_times_stored_as_vectors_of_one_are_read(tmp_path):
    columns = {"timestamp": [[float(time)] for time in ROWS]}
    assert np.abs(times_of(write_dataset(tmp_path / "ds", ROWS, columns=columns)) - ROWS).max() < PIXEL


def as_v30(root, lengths, starts, ends):
    """Rewrites a dataset of one episode per file as v3.0: one video with all of them."""
    info = json.loads((root / "meta/info.json").read_text())
    paths = {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    (root / "meta/info.json").write_text(json.dumps({**info, "codebase_version": "v3.0", **paths}))
    pq.write_table(pa.table({"task_index": [0], "task": [TASK]}), root / "meta/tasks.parquet")
    rows = [
        {
            "episode_index": episode,
            "tasks": [TASK],
            "length": length,
            "data/chunk_index": 0,
            "data/file_index": 0,
            f"videos/{CAMERA}/chunk_index": 0,
            f"videos/{CAMERA}/file_index": 0,
            f"videos/{CAMERA}/from_timestamp": starts[episode],
            f"videos/{CAMERA}/to_timestamp": ends[episode],
        }
        for episode, length in enumerate(lengths)
    ]
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    tables = [pq.read_table(path) for path in sorted((root / "data/chunk-000").glob("*.parquet"))]
    pq.write_table(pa.concat_tables(tables), root / "data/chunk-000/file-000.parquet")


@pytest.mark.parametrize("rate", [30, 60])
def test_episodes_that_share_a_video_start_where_the_metadata_says(tmp_path, rate):
    """Also where the first one starts late in the file, after images of none."""
    root = write_dataset(tmp_path / "ds", ROWS[:20], episodes=3)
    starts = [0.5, 0.5 + 20 / 30, 0.5 + 40 / 30]
    as_v30(root, [20] * 3, starts, [start + 20 / 30 for start in starts])
    write_video(root / f"videos/{CAMERA}/chunk-000/file-000.mp4", np.arange(0, 2.5, 1 / rate))
    for episode, start in enumerate(starts):
        assert np.abs(times_of(root, episode=episode) - start - ROWS[:20]).max() <= PIXEL / 2 + 1e-3


def test_an_episode_that_lacks_its_last_image_does_not_take_the_next_ones_first(tmp_path):
    root = write_dataset(tmp_path / "ds", ROWS[:20], episodes=2)
    as_v30(root, [20] * 2, [0.0, 19 / 30], [19 / 30, 39 / 30])
    write_video(root / f"videos/{CAMERA}/chunk-000/file-000.mp4", np.arange(39) / 30)
    with pytest.raises(DatasetError, match=r"row 19 of episode 0 is of 0\.6333 s in it, but the nearest .* 0\.6000 s"):
        times_of(root)
    assert len(times_of(root, episode=1)) == 20
