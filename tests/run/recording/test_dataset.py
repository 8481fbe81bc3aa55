"""A recording becomes a dataset that training and calibration read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from recorded_runs import CAMERA, PROMPT, LockstepRun, ordinary, picture, recorded_run

from pi0_edge.cli import main
from pi0_edge.datasets.lerobot_reader import LeRobotDataset
from pi0_edge.errors import RecordingError
from pi0_edge.policy import Policy
from pi0_edge.protos.serial_link import Command
from pi0_edge.run.recording import RunRecording
from pi0_edge.run.recording.dataset import export_dataset
from pi0_edge.run.recording.episodes import episodes_of


def test_state_action_and_images_are_those_of_the_ticks(run_file: Path, tmp_path: Path) -> None:
    recording = RunRecording(run_file)
    report = export_dataset(recording, tmp_path / "dataset")
    (episode,) = episodes_of(recording)
    dataset = LeRobotDataset(tmp_path / "dataset")
    assert dataset.fps == 50 and dataset.cameras == (CAMERA,) and dataset.tasks == (PROMPT,)
    executed = np.array([tick.executed for tick in episode.ticks], np.float32)
    stored = dataset.episode(0)
    measured = np.array([tick.measured for tick in episode.ticks], np.float32)
    assert np.abs(measured - executed).max() > 0
    np.testing.assert_array_equal(stored.state, measured[:-1])
    np.testing.assert_array_equal(stored.action, executed[1:])  # action of a frame: what is due in the tick after
    images = list(dataset.frames(0, CAMERA))
    assert len(images) == report.frames == len(executed) - 1
    newest = recording.image_at(CAMERA, round(episode.ticks[20].host_time_s * 1e9))
    assert newest is not None
    number = (newest.taken_ns - recording.images(CAMERA)[0].taken_ns) // 40_000_000 + 1
    shown = images[20].astype(int)
    errors = {n: float(np.abs(shown - picture(n)).mean()) for n in (number - 2, number - 1, number, number + 1)}
    assert min(errors, key=lambda n: errors[n]) == number, errors
    assert report.oldest_image_s < 0.05 and report.by_person == 0


def test_episodes_end_at_labels_prompts_and_stops_and_labels_choose(policy: Policy, tmp_path: Path) -> None:
    def drive(run: LockstepRun) -> None:
        run.arm()
        run.play(30)
        run.say("label", "failure")
        run.play(40)
        run.say("label", "success")
        run.play(5)
        run.command(Command.DISARM)
        for _ in range(40):
            run.step()

    recording = RunRecording(recorded_run(tmp_path / "run.mcap", policy, drive))
    assert [episode.label for episode in episodes_of(recording)] == ["failure", "success", ""]
    report = export_dataset(recording, tmp_path / "dataset", labels=("success",))
    assert report.episodes == 1 and 30 <= report.frames <= 40
    assert "label 'failure'" in report.left_out[0] and "fewer than" in report.left_out[1]


def test_the_ticks_of_a_person_are_marked(policy: Policy, tmp_path: Path) -> None:
    def drive(run: LockstepRun) -> None:
        run.arm()
        run.play(30)
        run.pending = None
        run.say("person", tick=run.lead(run.where(40)))
        for _ in range(30):
            run.step()
        run.scheduler.lost()
        run.play(5)
        assert run.last is not None and run.last.observed_tick > 0
        run.say("policy", tick=run.last.tick - 1)
        run.play(30)

    recording = RunRecording(recorded_run(tmp_path / "run.mcap", policy, drive))
    (episode,) = episodes_of(recording)
    persons = [tick.tick for tick, person in zip(episode.ticks, episode.by_person, strict=True) if person]
    assert persons == list(range(persons[0], persons[-1] + 1)) and 28 <= len(persons) <= 36
    report = export_dataset(recording, tmp_path / "dataset")
    table = pq.read_table(next((tmp_path / "dataset" / "data").rglob("*.parquet")))
    assert sum(table["intervention"].to_pylist()) == report.by_person == len(persons)
    assert LeRobotDataset(tmp_path / "dataset").features["intervention"]["dtype"] == "bool"


def test_old_images_are_refused_unless_they_are_allowed(policy: Policy, tmp_path: Path) -> None:
    def drive(run: LockstepRun) -> None:
        run.listener.on_image = lambda camera, image: None  # type: ignore[method-assign]
        ordinary(run, 60)

    recording = RunRecording(recorded_run(tmp_path / "run.mcap", policy, drive))
    with pytest.raises(RecordingError, match="act late"):
        export_dataset(recording, tmp_path / "dataset")
    assert export_dataset(recording, tmp_path / "old", image_age_s=1.0).oldest_image_s > 0.1


def test_a_run_without_motion_has_no_dataset(policy: Policy, tmp_path: Path) -> None:
    recording = RunRecording(recorded_run(tmp_path / "run.mcap", policy, lambda run: run.step()))
    with pytest.raises(RecordingError, match="the arm never moved"):
        export_dataset(recording, tmp_path / "dataset")


def test_calibration_reads_the_dataset(run_file: Path, checkpoint: Path, tmp_path: Path) -> None:
    export_dataset(RunRecording(run_file), tmp_path / "dataset")
    output = tmp_path / "calibration.npz"
    arguments = ["calibrate", "--checkpoint", str(checkpoint), "--dataset", str(tmp_path / "dataset")]
    assert main([*arguments, "--output", str(output)]) == 0
    assert output.stat().st_size > 0


@pytest.mark.slow
def test_training_reads_the_dataset(run_file: Path, tmp_path: Path) -> None:
    export_dataset(RunRecording(run_file), tmp_path / "dataset")
    arguments = ["train", "--dataset", str(tmp_path / "dataset"), "--output", str(tmp_path / "run")]
    small = ["--steps", "2", "--vision-steps", "1", "--batch", "2", "--save-every", "2", "--threads", "1"]
    assert main([*arguments, *small]) == 0
