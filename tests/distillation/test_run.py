"""A whole distillation: what it writes, how it goes on, what every engine and the gate then know of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_runner import run
from observation_sources import write_npz
from policy_builders import CONFIG, DIMS, PROMPT, observation, write_checkpoint
from safetensors.torch import load_file

from pi0_edge.bundle import open_bundle
from pi0_edge.datasets.lerobot_writer import LeRobotWriter
from pi0_edge.distillation.origin import FILE, Origin
from pi0_edge.distillation.run import distill
from pi0_edge.errors import CheckpointError, ConfigError, DatasetError
from pi0_edge.policy import Policy
from pi0_edge.progress import Progress
from pi0_edge.ptq.pipeline import quantize
from pi0_edge.ptq.teacher import Teacher
from pi0_edge.ptq.trace import trace
from pi0_edge.ptq.verdict import Thresholds
from pi0_edge.shipped import shipped_checkpoint
from pi0_edge.training.samples import SampleBatches
from pi0_edge.training.sources import Batch

pytestmark = pytest.mark.system

torch.set_num_threads(1)
SIZE = CONFIG.vision.image_size
SHORT: dict[str, Any] = {"updates": 4, "batch": 2, "save_every": 1}
LOOSE = Thresholds(chunks=4, executed=4)


def write_demonstrations(root: Path, dims: int = DIMS, size: int = SIZE, tasks: tuple[str, ...] = (PROMPT,)) -> Path:
    rng = np.random.default_rng(0)
    with LeRobotWriter(root, 50, [f"joint_{k}" for k in range(dims)], {"top": (size, size)}, "aloha") as writer:
        for task in tasks:
            moved = rng.normal(0, 0.3, (12, dims)).astype(np.float32)
            images = rng.integers(0, 256, (12, size, size, 3), np.uint8)
            writer.add_episode(moved, moved, {"top": images}, task)
    return root


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("teacher") / "checkpoint")
    shutil.copyfile(shipped_checkpoint() / "training_profile.json", folder / "training_profile.json")
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_demonstrations(tmp_path_factory.mktemp("data") / "demonstrations")


@pytest.fixture(scope="module")
def student(teacher, dataset, tmp_path_factory) -> Path:
    return distill(teacher, dataset, tmp_path_factory.mktemp("run"), steps=2, **SHORT).checkpoint


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    return write_npz(tmp_path_factory.mktemp("recording") / "robot.npz", 40, prompt=PROMPT)


def velocities(policy: Policy) -> int:
    """How often the network of the actions is asked for one chunk."""
    return len(trace(policy, [observation()], probed=1).inside[0].velocities)


def test_the_checkpoint_says_its_steps_and_every_engine_takes_them(teacher, student):
    settings = json.loads((student / "config.json").read_text())["processing"]["settings"]
    assert (settings["euler_steps"], settings["euler_times"]) == (2, "accumulated")
    for engine, scheme in (("reference", None), ("cpu", "int8-w8a8")):
        assert velocities(Policy.load(student, engine, scheme)) == 2
        assert velocities(Policy.load(teacher, engine, scheme)) == 10


def test_only_the_expert_differs_from_the_teacher(teacher, student):
    before, after = (load_file(folder / "model.safetensors") for folder in (teacher, student))
    assert before.keys() == after.keys()
    changed = {name.split(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed and changed <= {
        "expert",
        "state_proj",
        "action_in_proj",
        "action_out_proj",
        "action_time_mlp_in",
        "action_time_mlp_out",
    }


def test_what_lies_beside_the_weights_comes_along(teacher, student):
    found = Origin.find(student)
    sha256 = Policy.load(teacher).checkpoint_sha256
    assert found == Origin(sha256, teacher_steps=10, steps=2, updates=4, parts=[5, 5], floor=0.01, opening_share=0.25)
    for name in ("norm_stats.json", "tokenizer.json", "training_profile.json"):
        assert json.loads((student / name).read_text()) == json.loads((teacher / name).read_text())
    assert Origin.find(teacher) is None and Origin.find(student / "model.safetensors") == found


def test_an_interrupted_run_ends_where_an_unbroken_one_does(teacher, dataset, tmp_path):
    def stop_after_two(progress: Progress) -> None:
        if progress.done == 3:
            raise KeyboardInterrupt

    unbroken = distill(teacher, dataset, tmp_path / "unbroken", **SHORT)
    with pytest.raises(KeyboardInterrupt):
        distill(teacher, dataset, tmp_path / "broken", **SHORT, on_progress=stop_after_two)
    resumed = distill(teacher, dataset, tmp_path / "broken", **SHORT)
    assert resumed.updates == 4 and resumed.plot.exists()
    ours, theirs = (load_file(result.checkpoint / "model.safetensors") for result in (resumed, unbroken))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(ConfigError, match="distilled otherwise"):
        distill(teacher, dataset, tmp_path / "broken", steps=2, **SHORT)


def interrupted(teacher: Path, dataset: Path, output: Path, **how: Any) -> None:
    """A run of two steps that was saved once."""

    def stop(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(teacher, dataset, output, steps=2, **{**SHORT, **how}, on_progress=stop)


OTHERS = [
    {"floor": 0.1},
    {"opening_share": 0.6},
    {"start": "student"},
    {"steps": 1},
    {"teacher_steps": 2},
    {"parts": (7, 3)},
]


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("finished", [False, True])
def test_a_run_goes_on_with_its_own_arguments_alone(teacher, dataset, student, tmp_path, other, finished):
    output = tmp_path / "run"
    if finished:
        shutil.copytree(student.parent, output)
    else:
        interrupted(teacher, dataset, output)
    changed = {name: student if value == "student" else value for name, value in other.items()}
    before = {file: file.read_bytes() for file in output.rglob("*") if file.is_file()}
    with pytest.raises(ConfigError, match="was distilled otherwise"):
        distill(teacher, dataset, output, **{"steps": 2, **SHORT, **changed})
    assert {file: file.read_bytes() for file in output.rglob("*") if file.is_file()} == before
    assert distill(teacher, dataset, output, steps=2, **SHORT).updates == 4


def test_a_student_of_an_earlier_version_tells_less_and_is_compared_in_that(teacher, dataset, student, tmp_path):
    shutil.copytree(student, tmp_path / "checkpoint")
    written = json.loads((student / FILE).read_text())
    old = {name: written[name] for name in ("teacher_sha256", "teacher_steps", "steps", "updates")}
    (tmp_path / "checkpoint" / FILE).write_text(json.dumps(old))
    found = Origin.find(tmp_path / "checkpoint")
    assert found is not None and found.floor is None
    present = Origin(**written)
    present.check_same(tmp_path / "checkpoint")
    replace(present, floor=0.1).check_same(tmp_path / "checkpoint")  # nobody tells
    for other in ({"updates": 5}, {"parts": [7, 3]}):  # parts were equal then
        with pytest.raises(ConfigError, match="was distilled otherwise"):
            replace(present, **other).check_same(tmp_path / "checkpoint")


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_share_of_the_observations_are_those_that_an_episode_begins_with(
    teacher, dataset, tmp_path, monkeypatch, share
):
    drawn: list[str] = []
    real = SampleBatches.batch

    def recorded(self: SampleBatches, size: int, rng: np.random.Generator) -> Batch:
        batch = real(self, size, rng)
        drawn.extend(batch.keys)
        return batch

    monkeypatch.setattr(SampleBatches, "batch", recorded)
    distill(teacher, dataset, tmp_path, updates=1, batch=48, opening_share=share)
    images = 6  # of the only episode, every second of its 12 ticks
    assert len(drawn) == 48
    assert drawn.count("0-0") >= 48 * share
    assert set(drawn) == {f"0-{image}" for image in range(images if share < 1 else 1)}


def test_a_run_may_begin_from_a_student_of_the_same_teacher_and_steps(teacher, dataset, student, tmp_path):
    tiny = {**SHORT, "updates": 1, "learning_rate": 1e-12}
    further = distill(teacher, dataset, tmp_path / "further", steps=2, start=student, **tiny).checkpoint
    ours, theirs, first = (load_file(folder / "model.safetensors") for folder in (further, student, teacher))
    changed = [name for name in theirs if not torch.equal(theirs[name], first[name])]
    assert changed
    for name in changed:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("start", "steps", "message"), [("teacher", 2, "was not distilled"), ("student", 1, r"in 2 step\(s\)")]
)
def test_a_run_begins_from_no_other_checkpoint(teacher, dataset, student, tmp_path, start, steps, message):
    folder = {"teacher": teacher, "student": student}[start]
    with pytest.raises(ConfigError, match=message):
        distill(teacher, dataset, tmp_path / "run", steps=steps, start=folder, **SHORT)
    with pytest.raises(CheckpointError, match="nowhere"):  # and before the data, which is not there either
        distill(teacher, tmp_path / "no-data", tmp_path / "run", steps=steps, start=tmp_path / "nowhere", **SHORT)
    stranger = write_checkpoint(tmp_path / "stranger", seed=1)
    with pytest.raises(ConfigError, match="expected a student of teacher"):
        distill(stranger, dataset, tmp_path / "run", steps=2, start=student, **SHORT)


def test_a_student_of_a_teacher_that_continues_plans_does_so_too(dataset, tmp_path):
    from pi0_edge.checkpoints import open_checkpoint, save_checkpoint
    from pi0_edge.model import Pi0
    from pi0_edge.processing import load_processor

    plain = open_checkpoint(write_checkpoint(tmp_path / "plain"))
    config = replace(plain.infer_config(), trained_delay=3)
    model = Pi0(config)
    plain.load_into(model)
    save_checkpoint(
        tmp_path / "teacher", model.state_dict(), config, load_processor(plain.folder, config).description()
    )
    result = distill(tmp_path / "teacher", dataset, tmp_path / "run", **SHORT)
    assert open_checkpoint(result.checkpoint).infer_config().trained_delay == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 3}, "teacher_steps is 10, expected a multiple of the student's 3, such as 15; or say by parts"),
        ({"steps": 2, "teacher_steps": 5}, "teacher_steps is 5"),
        ({"steps": 2, "parts": (7, 4)}, "parts are 7, 4; expected 2 of at least 1 that sum to 10"),
        ({"steps": 0}, "steps is 0"),
        ({"updates": 0}, "updates is 0"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"floor": 0.0}, "floor is 0.0"),
        ({"opening_share": 1.5}, "opening_share is 1.5, expected 0 to 1"),
        ({"camera": "selfie"}, "has no camera 'selfie'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(teacher, dataset, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        distill(teacher, dataset, tmp_path, **{**SHORT, **changes})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("other", "message"),
    [({"dims": 6}, r"shape \[6\]"), ({"size": 32}, r"\[32, 32, 3\]"), ({"tasks": ("a", "b")}, "has 2 tasks")],
)
def test_data_that_is_not_the_teachers_is_refused(teacher, tmp_path, other, message):
    data = write_demonstrations(tmp_path / "data", **other)
    with pytest.raises(DatasetError, match=message):
        distill(teacher, data, tmp_path / "run", **SHORT)


DAMAGED = '{"teacher_sha256": "a", "teacher_steps": 10, "steps": 1, "updates": 4, "floor": "0.1"}'

NO_STEPS = '{"teacher_sha256": "a", "teacher_steps": 10, "steps": 0, "updates": 4}'
NO_COUNTS = '{"teacher_sha256": "a", "teacher_steps": 10, "steps": 2, "updates": 4, "parts": [7, "3"]}'


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"steps": 1}', '{"teacher_sha256": 1, "teacher_steps": 10}', DAMAGED, NO_STEPS, NO_COUNTS],
)
def test_a_damaged_note_of_the_teacher_is_told(student, tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(CheckpointError, match="distil again"):
        Origin.find(tmp_path)


def test_the_command_does_what_the_function_does(teacher, dataset, student, tmp_path):
    options = ["--checkpoint", teacher, "--dataset", dataset, "--output", tmp_path, "--steps", "2"]
    ran = run("distill", *options, "--updates", "4", "--batch", "2", "--save-every", "1", "--json")
    assert ran.code == 0 and ran.result["steps"] == 2
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "checkpoint", student))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


FEW: dict[str, Any] = {"held_out": 4, "draws": 1, "calibration_frames": 4}


def test_a_student_is_judged_beside_its_teacher_or_not_at_all(teacher, student, recording, tmp_path):
    with pytest.raises(ConfigError, match="was distilled to 2 Euler steps"):
        quantize(student, "int8-w8a8", recording, thresholds=LOOSE, **FEW)
    stranger = write_checkpoint(tmp_path / "stranger", seed=1)
    with pytest.raises(ConfigError, match="give the one that it learned from"):
        quantize(student, "int8-w8a8", recording, thresholds=LOOSE, teacher=Teacher(stranger, 2, 2), **FEW)
    found = quantize(student, "int8-w8a8", recording, thresholds=LOOSE, teacher=Teacher(teacher, 2, 8), **FEW)
    report = found.gate.distribution
    assert report is not None and (report.observations, report.draws) == (2, 8)
    names = [finding.name for finding in found.verdict.findings]
    assert "energy distance to the teacher" in names
    assert not found.passed and any("draws per observation" in reason for reason in found.verdict.reasons)
    assert dict(found.facts)["Euler steps"] == "2"
    assert "Beside the teacher" in found.report_html()
    found.write_bundle(tmp_path / "bundle")
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert manifest.processing.settings["euler_steps"] == 2
    bundled = Policy.from_bundle(tmp_path / "bundle", accept_failed_gate=True)
    assert velocities(bundled) == 2


def test_the_grippers_of_the_teachers_robot_have_their_flips_counted(teacher, student, recording):
    found = quantize(student, "fp32", recording, thresholds=LOOSE, teacher=Teacher(teacher, 1, 2), **FEW)
    assert found.gate.distribution is not None and found.gate.distribution.teacher_flips is not None
    written = found.gate.to_dict()["distribution"]
    assert written["candidate"]["flips"] is not None
    json.dumps(written, allow_nan=False)
