"""`pi0-edge calibrate`, from a recording to a file, and what it says when it cannot."""

import io

import numpy as np
import pytest
import torch
from cli_runner import run
from observation_sources import moving_images, states, write_npz
from PIL import Image
from policy_builders import write_checkpoint

from pi0_edge.errors import MissingDependencyError
from pi0_edge.processing import load_robot
from pi0_edge.ptq import calibration as calibration_of_policies
from pi0_edge.ptq.calibration_file import Calibration
from pi0_edge.ptq.frames import split_frames
from pi0_edge.ptq.sources import open_source

pytestmark = pytest.mark.system

torch.set_num_threads(1)
FRAMES = 16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("calibrated") / "checkpoint")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("recording") / "robot.npz", 40, prompt="Transfer cube")


@pytest.fixture
def options(checkpoint, recording):
    return ["--checkpoint", checkpoint, "--dataset", recording, "--frames", FRAMES]


def test_a_recording_becomes_a_calibration(options, recording, tmp_path):
    output, plot = tmp_path / "policy.calibration", tmp_path / "outliers.svg"
    ran = run("calibrate", "--output", output, *options, "--plot", plot, "--json")
    assert ran.code == 0, ran.err
    result, calibration = ran.result, Calibration.load(output)
    assert calibration.source.to_dict() == result["source"]
    assert (calibration.source.kind, calibration.source.path) == ("npz", str(recording))
    assert (calibration.source.frames, calibration.source.cameras) == (FRAMES, ("top",))
    assert len(calibration.source.checkpoint_sha256) == 64
    assert set(result["layers"]) == set(calibration.layers)
    found, layer = result["layers"]["expert.layers.0.mlp.down"], calibration.layers["expert.layers.0.mlp.down"]
    assert found["amax"] == layer.amax and found["outlier_ratio"] == layer.outlier_ratio
    assert len(found["step_amax"]) == 10 and result["layers"]["prefix.layers.0.mlp.up"]["step_amax"] is None
    assert "<svg" in plot.read_text()
    assert "not in them: left_wrist, right_wrist of the robot" in ran.err
    again = tmp_path / "again.calibration"
    assert run("calibrate", "--output", again, *options).code == 0
    assert again.read_bytes() == output.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.calibration", "outliers.svg", output.name]


def test_an_interrupted_calibration_goes_on(options, tmp_path, monkeypatch):
    unbroken, output = tmp_path / "unbroken", tmp_path / "resumed"
    assert run("calibrate", "--output", unbroken, *options).code == 0
    real = calibration_of_policies.collect

    def interrupted(model, samples, times, source, resume_path, on_progress):
        def on_progress_until_ctrl_c(progress):
            on_progress(progress)
            if progress.done == 5:
                raise KeyboardInterrupt

        return real(model, samples, times, source, resume_path, on_progress_until_ctrl_c)

    monkeypatch.setattr(calibration_of_policies, "collect", interrupted)
    ran = run("calibrate", "--output", output, *options)
    assert ran.code == 130 and not output.exists()
    assert "resumed.interrupted; the same command with --resume goes on" in ran.out
    monkeypatch.setattr(calibration_of_policies, "collect", real)
    refused = run("calibrate", "--output", output, *options)
    assert refused.code == 2 and "holds an interrupted calibration; go on with --resume" in refused.err
    other = run("calibrate", "--output", output, *options, "--resume", "--seed", 1)
    assert other.code == 2 and "another" in other.err
    assert run("calibrate", "--output", output, *options, "--resume").code == 0
    assert output.read_bytes() == unbroken.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed", "unbroken"]


def test_the_simulation_is_the_default_source(checkpoint, tmp_path):
    try:
        import pi0_edge.sim.aloha_transfer_cube  # noqa: F401
    except MissingDependencyError as error:
        pytest.skip(str(error))
    output = tmp_path / "simulated"
    ran = run("calibrate", "--output", output, "--checkpoint", checkpoint, "--frames", FRAMES, "--json")
    assert ran.code == 0, ran.err
    assert (ran.result["source"]["kind"], ran.result["source"]["frames"]) == ("simulation", FRAMES)


BAD = {
    "black": ({"images.top": np.zeros((40, 40, 60, 3), np.uint8)}, "is black in 16 of 16 frames"),
    "still": ({"images.top": np.repeat(moving_images(1), 40, 0)}, "shows the same image"),
    "degrees": ({"state": states(40) * 57.3}, "the state of joint"),
    "no such camera": ({"images.front": moving_images(40), "images.top": None}, "expected at least one of"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_unfit_recordings_are_refused(checkpoint, tmp_path, change, message):
    content = {"images.top": moving_images(40), "state": states(40), **change}
    np.savez(tmp_path / "a.npz", **{name: value for name, value in content.items() if value is not None})
    common = ["--output", tmp_path / "out", "--checkpoint", checkpoint, "--frames", FRAMES]
    ran = run("calibrate", *common, "--dataset", tmp_path / "a.npz", "--json")
    assert ran.code == 2 and message in ran.result["error"]
    assert not (tmp_path / "out").exists()


def test_too_few_frames_and_bad_paths_are_refused(options, tmp_path):
    few = run("calibrate", "--output", tmp_path / "out", *options, "--frames", 8)
    assert few.code == 2 and "has 8 frames for this purpose, expected at least 16" in few.err
    for extra, message in (
        (["--output", tmp_path / "absent" / "out"], "does not exist; create it"),
        (["--output", tmp_path / "out", "--plot", tmp_path / "a.gif"], "expected a name that ends in .svg or .png"),
        (["--output", tmp_path / "out", "--resume"], "to resume; leave --resume out"),
    ):
        ran = run("calibrate", *options, *extra)
        assert ran.code == 2 and message in ran.err


def test_unfit_frames_are_left_out_up_to_the_number_given(checkpoint, tmp_path):
    values = states(40)
    values[[place.frame for place in chosen_places(checkpoint)][5]] = 57.3
    recording = write_npz(tmp_path / "a.npz", 40, state=values, prompt="Transfer cube")
    common = ["--checkpoint", checkpoint, "--dataset", recording, "--frames", 17, "--json"]
    refused = run("calibrate", "--output", tmp_path / "out", *common)
    assert refused.code == 2 and "give skip_unfit=N (--skip-unfit N)" in refused.result["error"]
    ran = run("calibrate", "--output", tmp_path / "out", *common, "--skip-unfit", 1)
    assert ran.code == 0, ran.err
    (reason,) = ran.result["source"]["left_out"]
    assert "the state of joint" in reason and f"left out as unfit: {reason[:20]}" in ran.err
    source = Calibration.load(tmp_path / "out").source
    assert (source.frames, source.left_out) == (16, (reason,))


def test_over_long_prompts_are_cut_only_where_that_is_asked_for(checkpoint, tmp_path, caplog):
    recording = write_npz(tmp_path / "a.npz", 40, prompt="Transfer cube " * 9)
    common = ["--output", tmp_path / "out", "--checkpoint", checkpoint, "--dataset", recording, "--frames", 16]
    refused = run("calibrate", *common)
    assert refused.code == 2 and "prompt has" in refused.err and "--truncate-prompts" in refused.err
    ran = run("calibrate", *common, "--truncate-prompts")
    assert ran.code == 0, ran.err
    assert [text for text in caplog.messages if "tokens are cut off from the prompt 'Transfer cube" in text]


def chosen_places(checkpoint):
    source = open_source(write_npz(checkpoint.parent / "any.npz", 40), load_robot("aloha_sim"))
    return split_frames(source, 17, 0, 0).calibration.places


DATASETS = {
    "channels first": {"camera": {"shape": [3, 48, 96], "names": ["channels", "height", "width"]}},
    "v2.0": {"info": {"codebase_version": "v2.0"}},
    "twice the rate": {"video_times": np.arange(120) / 60},
}


@pytest.mark.parametrize("changes", DATASETS.values(), ids=DATASETS)
def test_datasets_of_many_kinds_are_calibrated_on(checkpoint, tmp_path, changes):
    builders = dataset_builders()
    robot = robot_file(tmp_path)
    root = builders.write_dataset(tmp_path / "ds", np.arange(60) / 30, dims=14, **changes)
    ran = run("calibrate", "--output", tmp_path / "out", "--dataset", root, *of_robot(checkpoint, robot))
    assert ran.code == 0, ran.err


def test_images_in_the_rows_are_calibrated_on(checkpoint, tmp_path):
    builders = dataset_builders()
    stored = [{"bytes": png(builders.picture(row / 30)), "path": None} for row in range(60)]
    root = builders.write_dataset(tmp_path / "ds", np.arange(60) / 30, dims=14, stored=stored)
    ran = run("calibrate", "--output", tmp_path / "out", "--dataset", root, *of_robot(checkpoint, robot_file(tmp_path)))
    assert ran.code == 0, ran.err


def test_a_dataset_whose_video_has_other_moments_is_refused_by_file_row_and_times(checkpoint, tmp_path):
    builders = dataset_builders()
    times = np.arange(60) / 30
    root = builders.write_dataset(tmp_path / "ds", times, dims=14, video_times=times / 2)
    ran = run("calibrate", "--output", tmp_path / "out", "--dataset", root, *of_robot(checkpoint, robot_file(tmp_path)))
    assert ran.code == 2
    assert "the nearest image is of 0.983" in " ".join(ran.err.split()), ran.err


def dataset_builders():
    pytest.importorskip("pi0_edge.datasets.lerobot_reader", reason="datasets need pyarrow and av")
    import dataset_builders

    return dataset_builders


def png(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def robot_file(folder):
    path = folder / "bot.yaml"
    path.write_text("name: bot\nstate_dim: 14\naction_dim: 14\ncameras: {cam: base_0_rgb}\ncontrol_hz: 50\n")
    return path


def of_robot(checkpoint, robot):
    return ["--checkpoint", checkpoint, "--robot", robot, "--frames", 20]
