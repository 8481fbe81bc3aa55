"""A whole distillation: from a trained checkpoint to one of the same network that needs one or two Euler steps.

    distill("checkpoint", "demonstrations/", "runs/one-step", steps=1).checkpoint

    OUTPUT/
        checkpoint/         the student, an ordinary checkpoint: its settings say how many steps it takes
            distillation.json   of which teacher, and how; `pi0-edge quantize` then asks for the teacher
        state.safetensors   the state of the run; the same call goes on from it
        distillation.json   of which teacher, and how, from the first update on; another call is refused
        loss.png            the loss over the updates

Observations are those of the demonstrations. Their actions are read only where the teacher was trained to continue a
running chunk: the student then learns the same, from the same lengths of frozen prefix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pi0_edge.checkpoints import Checkpoint, open_checkpoint, save_checkpoint
from pi0_edge.datasets.lerobot_reader import LeRobotDataset
from pi0_edge.distillation.origin import Origin
from pi0_edge.distillation.student import FLOOR, Student, check_parts, equal_parts
from pi0_edge.errors import ConfigError, DatasetError
from pi0_edge.model import Pi0
from pi0_edge.model.flow import euler_times
from pi0_edge.processing import Mode, ObservationProcessor, load_processor
from pi0_edge.processing.prompts import PromptStyle
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.synced_files import save_synced
from pi0_edge.training.plots import plot_run
from pi0_edge.training.run import AUGMENTATION, STRIDE, sample_batches
from pi0_edge.training.samples import Augmentation, Demonstration, SampleBatches, load_demonstrations
from pi0_edge.training.trainer import TrainConfig, Trainer, TrainingState, has_state

SMOOTHED = 50
"""Updates that the loss in a progress note is averaged over."""
WARM_UP = 100
"""Updates until the learning rate is at its peak, at most a tenth of all."""
PROFILE = "training_profile.json"
OPENING_SHARE = 0.25
FREE_SHARE = 0.5
"""Share of the draws that freeze nothing. A chunk that begins a motion freezes nothing and decides most, and a uniform
number of 0 to 24 frozen actions would make one draw of 25 such a chunk."""


@dataclass(frozen=True)
class DistillationResult:
    """The result of a run.

    Attributes:
        checkpoint: Folder of the student.
        plot: The loss over the updates.
        steps: Euler steps of the student.
        updates: Optimizer steps, those of resumed runs included.
        seconds: Time spent in them.
        loss: See `Student.loss`, mean of the last hundred updates.
    """

    checkpoint: Path
    plot: Path
    steps: int
    updates: int
    seconds: float
    loss: float


def distill(
    checkpoint: str | Path,
    dataset: str | Path,
    output: str | Path,
    *,
    steps: int = 1,
    teacher_steps: int | None = None,
    parts: Sequence[int] = (),
    updates: int = 2000,
    batch: int = 32,
    draws: int = 1,
    learning_rate: float = 1.5e-4,
    floor: float = FLOOR,
    opening_share: float = OPENING_SHARE,
    start: str | Path | None = None,
    seed: int = 0,
    save_every: int = 200,
    camera: str = "top",
    on_progress: ProgressCallback | None = None,
) -> DistillationResult:
    """Distils a policy, or goes on with a run that was interrupted.

    Args:
        checkpoint: The teacher: a π0 with one camera, trained by `pi0_edge.training.run.train`.
        dataset: LeRobotDataset folder with observations of its task.
        output: Folder of the run. A run that is there goes on; its arguments must be the same.
        steps: Euler steps of the student.
        teacher_steps: Euler steps that the teacher takes; as many as it was made for where None.
        parts: Of the teacher's steps, covered by each of the student; equal ones where there are none given.
        updates: Optimizer steps.
        batch: Observations per update.
        draws: Noise draws per observation.
        learning_rate: Peak of the cosine schedule.
        floor: Error of a chunk, root mean square of its normalized velocities, up to which errors count by their
            square; larger ones count by their size, see `Student`. Large where the teacher has several ways.
        opening_share: Share of the observations that are the first of an episode, besides those that are by chance:
            every episode asks for one, a demonstration has one in all its ticks, and of several ways one is chosen
            there.
        start: A student of the same teacher and steps to begin from; the teacher itself where None.
        seed: Fixes batches and noise.
        save_every: Updates between two saves.
        camera: The camera of dataset and robot that the policy gets images of.
        on_progress: Is called after every update; its note is the loss.

    Raises:
        CheckpointError: If the teacher does not load.
        ConfigError: If an argument is out of range, the run in `output` had other arguments, or the teacher is not a
            policy that such a run can train.
        DatasetError: If the dataset cannot be read or does not fit the teacher.
    """
    counts = {"steps": steps, "updates": updates, "batch": batch, "draws": draws, "save_every": save_every}
    _check_counts(counts, {"learning_rate": learning_rate, "floor": floor})
    if not 0 <= opening_share <= 1:
        raise ConfigError(f"opening_share is {opening_share}, expected 0 to 1, such as {OPENING_SHARE}")
    opened, output = open_checkpoint(Path(checkpoint)), Path(output)
    config = opened.infer_config()
    processor = load_processor(opened.folder, config)
    settings = processor.settings
    if config.head != "flow":
        raise ConfigError(f"{checkpoint} has the head {config.head}, which takes no Euler steps; expected flow")
    _check_teacher(processor, checkpoint, camera)
    taught = settings.euler_steps if teacher_steps is None else teacher_steps
    parts = _parts(taught, steps, parts)
    beginning = None if start is None else open_checkpoint(Path(start))
    origin = Origin.of(opened, taught, steps, parts, updates, floor, opening_share, beginning)
    if beginning is not None:
        _check_student(beginning, origin)
    origin.check_same(output / "checkpoint")
    if has_state(output):
        origin.check_same(output)
    augmentation = dataclasses.replace(AUGMENTATION, opening_share=opening_share, opening_ticks=1)
    batches = _batches(Path(dataset), processor, camera, augmentation)

    teacher = Pi0(config)
    opened.load_into(teacher)
    schedule = settings.euler_times.value
    dims = processor.robot.action_dim
    student = Student(teacher, euler_times(steps, schedule), euler_times(taught, schedule), dims, floor, parts)
    if beginning is not None:
        beginning.load_into(student)
    train = TrainConfig(
        steps=updates,
        real_dims=dims,
        batch=batch,
        draws=draws,
        learning_rate=learning_rate,
        warmup_steps=min(WARM_UP, updates // 10),
        seed=seed,
        save_every=save_every,
        max_delay=config.trained_delay,
        free_share=FREE_SHARE,
    )
    trainer = Trainer(student, batches, train, output)
    origin.save(output)
    stage = Stage("distilling", updates, on_progress)

    def report(state: TrainingState) -> None:
        stage.set(state.step, f"loss {np.mean(state.losses[-SMOOTHED:]):.4f}")

    average = trainer.run(report)
    folder, plot, state = output / "checkpoint", output / "loss.png", trainer.state
    few = dataclasses.replace(settings, euler_steps=steps)
    learned = ObservationProcessor(processor.robot, processor.tokenizer, processor.normalization, config, few)
    origin.save(folder)
    if (opened.folder / PROFILE).exists():
        # The student knows the teacher's data and no other.
        save_synced(folder / PROFILE, (opened.folder / PROFILE).read_bytes())
    save_checkpoint(folder, average, config, learned.description())
    plot_run(state, plot, "loss, see Student.loss")
    return DistillationResult(folder, plot, steps, state.step, state.seconds, float(np.mean(state.losses[-100:])))


def _check_student(start: Checkpoint, origin: Origin) -> None:
    """A checkpoint to begin from must be a student as this run makes one."""
    found = Origin.find(start.path)
    if found is None or found.task != origin.task:
        was = "was not distilled" if found is None else f"is {found.task}"
        raise ConfigError(f"{start.path} {was}; expected {origin.task}")


def _parts(taught: int, steps: int, parts: Sequence[int]) -> tuple[int, ...]:
    """As they were given, or equal ones."""
    if taught < 1 or (taught % steps and not parts):
        raise ConfigError(
            f"teacher_steps is {taught}, expected a multiple of the student's {steps}, such as {5 * steps}; "
            "or say by parts how many each step covers"
        )
    if not parts:
        return equal_parts(taught, steps)
    try:
        check_parts(parts, taught, steps)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return tuple(parts)


def _check_counts(counts: dict[str, int], sizes: dict[str, float]) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}, expected at least 1")
    for name, value in sizes.items():
        if not value > 0:
            raise ConfigError(f"{name} is {value}, expected more than 0, such as 1e-3")


def _check_teacher(processor: ObservationProcessor, checkpoint: str | Path, camera: str) -> None:
    robot = processor.robot
    if processor.settings.prompt_style is not PromptStyle.TEXT:
        raise ConfigError(f"{checkpoint} has its state in the prompt, which is not distilled yet; expected a π0")
    if camera not in robot.cameras:
        raise ConfigError(f"{robot.name} has no camera {camera!r}; expected one of {', '.join(robot.cameras)}")
    for normalizer in (processor.normalization.state, processor.normalization.actions):
        if normalizer.mode is not Mode.OPENPI_ZSCORE:
            raise ConfigError(
                f"{checkpoint} normalizes by {normalizer.mode.value}; expected {Mode.OPENPI_ZSCORE.value}"
            )


def _batches(dataset: Path, processor: ObservationProcessor, camera: str, augmentation: Augmentation) -> SampleBatches:
    """Samples as in training, but for the share of the openings."""
    tasks = LeRobotDataset(dataset).tasks
    if len(tasks) != 1:
        raise DatasetError(f"{dataset} has {len(tasks)} tasks, expected exactly one")
    demonstrations = load_demonstrations(dataset, camera, STRIDE)
    _check_shapes(demonstrations[0], processor, dataset)
    return sample_batches(processor, demonstrations, tasks[0], processor.config.horizon, augmentation)


def _check_shapes(first: Demonstration, processor: ObservationProcessor, dataset: Path) -> None:
    size, robot = processor.config.vision.image_size, processor.robot
    expected = {"images": (size, size, 3), "states": (robot.state_dim,), "actions": (robot.action_dim,)}
    for name, shape in expected.items():
        found = getattr(first, name).shape[1:]
        if found != shape:
            raise DatasetError(f"{name} of {dataset} have shape {list(found)}, the teacher expects {list(shape)}")
