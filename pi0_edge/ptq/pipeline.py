"""A checkpoint becomes a quantized policy, and the accuracy gate says whether it may move a robot.

    quantized = quantize("checkpoint", "orin", "recordings/")
    if quantized.passed:
        quantized.write_bundle("bundles/towel")
    quantized.policy.infer(observation)

`quantize` runs these steps, in this order:

    frames ─┬─ calibration half ─► calibrate ─► (scan, search) ─► quantize ─┐
            └─ held-out half ──► fp32 reference (, teacher) ────────────────┴─► gate ─► report, bundle

A distilled policy is compared with itself in fp32 as any other, on the same noise: that is what quantizing it did. What
distilling did is judged too, by the distribution of its chunks beside that of its teacher (`pi0_edge.ptq.teacher`).

Reference, teacher and candidate are never in memory together. A failed gate raises nothing: the policy and its bundle
carry the verdict, and a bundle that failed is refused by whatever loads it, unless its user accepts that by name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as with_fields
from pathlib import Path

from torch import Tensor

from pi0_edge.bundle import write_bundle
from pi0_edge.bundle.self_test_vectors import SelfTestVectors
from pi0_edge.bundle.writing import check_free
from pi0_edge.engine.cpu import CpuEngine
from pi0_edge.errors import ConfigError
from pi0_edge.evaluation.statistics import Rollout, pair
from pi0_edge.output_paths import check_output_path
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.ptq.calibration import calibrate_policy, torch_model
from pi0_edge.ptq.calibration_file import Calibration
from pi0_edge.ptq.candidate import channel_amax, check_calibration, quantize_checkpoint
from pi0_edge.ptq.frame_checks import UnfitFrames, fit_frames, inspect_frames
from pi0_edge.ptq.frames import ObservationSource, split_frames
from pi0_edge.ptq.gate import GateReport, compare
from pi0_edge.ptq.input_products import collect_input_products, paths_to_round
from pi0_edge.ptq.layer_groups import Granularity
from pi0_edge.ptq.mix_search import Choice, Mix, ranked
from pi0_edge.ptq.report import ReportPage, facts_about, render
from pi0_edge.ptq.scan import UNTOUCHED, LayerScan
from pi0_edge.ptq.sources import open_frames
from pi0_edge.ptq.teacher import Teacher, check_taught
from pi0_edge.ptq.trace import Trace, self_test_vectors, trace
from pi0_edge.ptq.training_episodes import training_profile_of
from pi0_edge.ptq.verdict import DEFAULT_TEACHER_THRESHOLDS, DEFAULT_THRESHOLDS, GateVerdict, Thresholds
from pi0_edge.quant import QuantizationReport, Scheme
from pi0_edge.quant.scheme_files import load_scheme, save_scheme
from pi0_edge.synced_files import save_synced
from pi0_edge.training_profile import TrainingProfile, load_training_profile

LEAST_HELD_OUT = 4
"""Fewer held-out observations than this are refused before anything is computed."""
SEARCH_LEVELS = ("int8-w8a16", "int8-w8a8")


@dataclass(frozen=True)
class ScanOptions:
    """How layers are ranked, and how the cheapest mix of schemes is searched.

    Attributes:
        by: Which layers are quantized together: `part`, `block` or `linear`.
        frames: How many observations to compare the actions on.
        levels: Schemes that the search may take layers from, besides the scheme of `quantize`; names, .yaml files or
            schemes.
    """

    by: Granularity = "block"
    frames: int = 16
    levels: Sequence[Scheme | str | Path] = SEARCH_LEVELS


@dataclass(frozen=True, eq=False)
class QuantizedPolicy:
    """A quantized policy with its verdict.

    Attributes:
        policy: On the CPU engine, ready to infer.
        scheme: How it was quantized; the mix that was found where one was searched.
        gate: The measurements against fp32, and the verdict.
        quantization: Sizes and errors of the quantized layers.
        facts: What was judged and on what, as (name, value).
        calibration: Activation statistics; None where the scheme needs none.
        ranking: Damage of each group of layers to the actions, worst first; empty where nothing was scanned.
        mix: What a search found; None without a search.
        state: The quantized network's tensors by name, as a bundle stores them.
        left_out: Frames that neither calibrated nor judged, each with its place and what is wrong with it.
        training_profile: What the training data looked like, for the mismatch guard; None where it is not known.
        self_test: Some of the held-out observations with the chunks of fp32, for the self-test on a robot.
    """

    policy: Policy
    scheme: Scheme
    gate: GateReport
    quantization: QuantizationReport
    facts: tuple[tuple[str, str], ...]
    calibration: Calibration | None = None
    ranking: tuple[Choice, ...] = ()
    mix: Mix | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    left_out: tuple[str, ...] = ()
    training_profile: TrainingProfile | None = None
    self_test: SelfTestVectors | None = None

    @property
    def verdict(self) -> GateVerdict:
        """Whether it may move a robot, and why not."""
        return self.gate.verdict

    @property
    def passed(self) -> bool:
        """Whether the gate passed."""
        return self.gate.verdict.passed

    def report_html(self) -> str:
        """The gate report as one self-contained page; the same text for the same numbers."""
        source = {} if self.calibration is None else self.calibration.source.to_dict()
        words = {name: "; ".join(value) if isinstance(value, list) else str(value) for name, value in source.items()}
        calibration = [(name.replace("_", " "), value) for name, value in words.items() if value]
        damages = [(f"{choice.group} · {choice.level}", choice.damage) for choice in self.ranking]
        return render(ReportPage(self.gate, self.scheme.to_dict(), self.facts, calibration, damages))

    def write_report(self, path: str | Path) -> None:
        """Writes the gate report to an .html file.

        Raises:
            ConfigError: If the name ends otherwise, or its folder does not exist.
        """
        check_output_path("path", path, (".html",))
        save_synced(Path(path), self.report_html().encode())

    def write_bundle(self, folder: str | Path, private_key: str | Path | None = None, replace: bool = False) -> None:
        """Writes policy, verdict and report as a bundle, whatever the verdict; the same inputs give the same bytes.

        Args:
            folder: Of the bundle; it appears complete or not at all.
            private_key: Signs the bundle (PEM), see `pi0_edge.bundle.keys`.
            replace: Whether a bundle that is there already may be replaced.

        Raises:
            ConfigError: If the scheme leaves layers to a library whose storage a bundle cannot hold.
            BundleError: If the folder is taken or cannot be written.
            MissingDependencyError: If it shall be signed and `cryptography` is not installed.
        """
        check_bundle(folder, self.scheme, replace)
        with tempfile.TemporaryDirectory() as scratch:
            report = Path(scratch) / "gate_report.html"
            report.write_text(self.report_html())
            write_bundle(
                Path(folder),
                state=self.state,
                config=self.policy.engine.config,
                scheme=self.scheme,
                processing=self.policy.processor.description(),
                source_sha256=self.policy.checkpoint_sha256,
                gate=self.gate.to_dict(),
                report_html=report,
                calibration=None if self.calibration is None else self.calibration.source.to_dict(),
                training_profile=self.training_profile,
                self_test=self.self_test,
                private_key=None if private_key is None else Path(private_key),
                replace=replace,
            )


def quantize(
    checkpoint: str | Path,
    scheme: Scheme | str | Path = "orin",
    frames: str | Path | ObservationSource | None = None,
    *,
    robot: str | Path | None = None,
    tokenizer: str | Path | None = None,
    sizes: Mapping[str, object] | None = None,
    norm_stats: str | Path | None = None,
    calibration: Calibration | str | Path | None = None,
    calibration_frames: int = 64,
    held_out: int = 100,
    draws: int = 3,
    seed: int = 0,
    episodes: int = 0,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    scan: ScanOptions | None = None,
    search: str | Path | None = None,
    skip_unfit: int = 0,
    training_profile: TrainingProfile | str | Path | None = None,
    teacher: Teacher | None = None,
    on_progress: ProgressCallback | None = None,
) -> QuantizedPolicy:
    """Quantizes a checkpoint and judges the result against fp32 on held-out frames.

    Args:
        checkpoint: File or folder, see `pi0_edge.checkpoints`.
        scheme: How which layers are quantized: a name in `SCHEMES`, a .yaml file, or a scheme.
        frames: LeRobotDataset, recording of `pi0-edge serve --record`, or .npz file; or a source that is open. None
            takes the simulated task of the policy, which suits policies of the simulated ALOHA only.
        robot: Robot layout by name or .yaml, where the checkpoint names none.
        tokenizer: Tokenizer file, where the checkpoint holds none.
        sizes: Sizes and settings that the checkpoint does not tell.
        norm_stats: A norm_stats.json, instead of the statistics of the checkpoint.
        calibration: Of this checkpoint, or its file; None calibrates where a scheme needs it.
        calibration_frames: How many observations to calibrate on, from half of the episodes.
        held_out: How many observations to judge on, from the other half; at least 4.
        draws: Noise draws per held-out observation.
        seed: Fixes the choice of episodes and frames, and the noise of the calibration.
        episodes: Simulated episodes that reference (the teacher, where there is one) and candidate run on the same
            seeds; 0 runs none.
        thresholds: To judge by; `thresholds.executed` actions of a chunk are executed in simulated episodes.
        scan: Ranks groups of layers by their damage to the actions; None does not, unless `search` is given.
        search: File (.yaml) for the cheapest mix of `scheme` and `scan.levels` that passes on the scan's frames. It is
            written as soon as it is found, and then quantized and judged instead of `scheme`.
        skip_unfit: How many frames, of both halves together, may be left out that do not fit the policy or are damaged;
            those that are stand in the report.
        training_profile: For the mismatch guard, or its file; None takes that of the calibration, of the frames where
            they are training data, or the one that lies beside the checkpoint.
        teacher: What a distilled policy is judged beside; one with `distillation.json` is refused without.
        on_progress: Is called after every step of every stage.

    Returns:
        The policy with its verdict, which may be that it failed.

    Raises:
        CheckpointError: If the checkpoint does not load.
        ConfigError: If the calibration is of another checkpoint, `search` cannot be written, the scan finds nothing to
            quantize, not even fp32 passes the search; robot, tokenizer or a size is missing; or a distilled policy
            has no teacher, or another one.
        DatasetError: If the frames are too few, black or identical, or more than `skip_unfit` are unfit.
        ObservationError: If a frame does not fit the policy and `skip_unfit` is 0.
        QuantizationError: If there is no such scheme, a calibration is damaged, or a weight or activation is NaN.
    """
    chosen = load_scheme(scheme)
    options = ScanOptions() if scan is None and search is not None else scan
    levels = [chosen, *(load_scheme(level) for level in options.levels)] if options and search else [chosen]
    check_output_path("search", search, (".yaml",))
    check_taught(checkpoint, teacher)
    statistics = Calibration.load(calibration) if isinstance(calibration, str | Path) else calibration
    if isinstance(training_profile, str | Path):
        training_profile = load_training_profile(training_profile)
    if training_profile is None and statistics is not None:
        training_profile = statistics.training_profile

    reference = Policy.load(
        Path(checkpoint),
        "reference",
        robot=None if robot is None else str(robot),
        tokenizer=None if tokenizer is None else Path(tokenizer),
        sizes=sizes,
        norm_stats=norm_stats,
    )
    check_calibration(statistics, checkpoint, reference.checkpoint_sha256)
    joints = reference.processor.robot.action_labels
    least = max(calibration_frames, held_out, options.frames if options else 0)
    source = open_frames(frames, reference, least, on_progress)
    if training_profile is None:
        training_profile = training_profile_of(checkpoint, source, reference.processor.robot, on_progress)
    split = split_frames(source, calibration_frames, held_out, seed)
    unfit = UnfitFrames(skip_unfit)
    inspection = inspect_frames(split.held_out, reference.processor, LEAST_HELD_OUT, unfit)
    if statistics is None and any(level.needs_calibration for level in levels):
        statistics = calibrate_policy(reference, split.calibration, seed, on_progress=on_progress, unfit=unfit)

    products = None
    if any(level.needs_input_products for level in levels):
        to_round = paths_to_round(torch_model(reference), levels)
        products = collect_input_products(reference, split.calibration, seed, to_round, on_progress, unfit)

    ranking, mix = (), None
    if options is not None:
        to_scan = split_frames(source, options.frames, 0, seed).calibration
        scanned = [observation for _, observation in fit_frames(to_scan, reference.processor, unfit)]
        layers = LayerScan(reference, levels, scanned, options.by, channel_amax(statistics), products)
        choices = layers.choices(Stage("scanning", layers.measurements, on_progress).advance)
        ranking = tuple(choice for choice in ranked(choices) if choice.level != UNTOUCHED)
        if search is not None:
            mix = _search(layers, choices, joints, thresholds, draws, on_progress)
            chosen = layers.scheme(mix.levels, Path(search).stem, describe_mix(mix), chosen.rest)
            save_scheme(chosen, search)
        del layers

    observations = list(inspection.fit)
    reference_trace = _trace(reference, observations, draws, on_progress)
    reference_rollouts = () if teacher else _roll_out(reference, episodes, thresholds, on_progress)
    del reference  # a full-size network must leave memory before the next one enters it
    taught, beside = None, []
    if teacher is not None:
        master, beside = teacher.load(), teacher.chosen(observations)
        taught = teacher.chunks(master, beside, on_progress)
        reference_rollouts = _roll_out(master, episodes, thresholds, on_progress)
        del master

    candidate = quantize_checkpoint(
        checkpoint,
        chosen,
        statistics,
        input_products=products,
        robot=robot,
        tokenizer=tokenizer,
        sizes=sizes,
        norm_stats=norm_stats,
    )
    products = None  # its files are no longer needed
    candidate_trace = _trace(candidate.policy, observations, draws, on_progress)
    candidate_rollouts = _roll_out(candidate.policy, episodes, thresholds, on_progress)
    success = pair(reference_rollouts, candidate_rollouts) if episodes else None
    names = [str(place) for place in inspection.fit.places]
    distribution, limits = None, DEFAULT_TEACHER_THRESHOLDS
    if teacher is not None and taught is not None:
        limits = teacher.thresholds
        distribution = teacher.compare(taught, candidate.policy, beside, thresholds.executed, on_progress)
    gate = compare(reference_trace, candidate_trace, joints, thresholds, names, success, distribution, limits)
    if isinstance(candidate.policy.engine, CpuEngine):
        gate = with_fields(gate, instructions=candidate.policy.engine.instructions)
    return QuantizedPolicy(
        policy=candidate.policy,
        scheme=chosen,
        gate=gate,
        quantization=candidate.report,
        facts=facts_about(candidate, checkpoint, inspection, draws, None if teacher is None else teacher.checkpoint),
        calibration=statistics,
        ranking=ranking,
        mix=mix,
        state=candidate.state,
        left_out=tuple(f"{place}: {reason}" for place, reason in unfit.reasons.items()),
        training_profile=training_profile,
        self_test=self_test_vectors(reference_trace, observations, names, thresholds.chunks),
    )


def check_bundle(folder: str | Path, scheme: Scheme, replace: bool) -> None:
    """Passes where a bundle of a scheme can appear at `folder`; to be called before the work that leads to it.

    Raises:
        ConfigError: If the scheme leaves layers to a library whose storage a bundle cannot hold.
        BundleError: If there is a bundle already and `replace` is False, or anything else.
    """
    check_free(Path(folder), replace)
    libraries = sorted({rule.library for rule in scheme.rules if rule.library is not None})
    if libraries:
        raise ConfigError(
            f"{scheme.name} leaves layers to {', '.join(libraries)}, whose storage a bundle cannot hold; "
            "judge it without writing a bundle, or choose another scheme"
        )


def describe_mix(mix: Mix) -> str:
    """How far a search came, in words."""
    return f"cheapest mix that passes: {mix.taken} of {mix.steps} steps, {mix.cost:.0%} of the 16-bit cost"


def _search(
    layers: LayerScan,
    choices: Sequence[Choice],
    joints: Sequence[str],
    thresholds: Thresholds,
    draws: int,
    on_progress: ProgressCallback | None,
) -> Mix:
    mix = layers.cheapest_passing(choices, joints, thresholds, draws, Stage("searching", None, on_progress).advance)
    if mix is None:
        raise ConfigError("not even the unquantized network passes on the frames of the scan; loosen the thresholds")
    return mix


def _trace(
    policy: Policy, observations: Sequence[Observation], draws: int, on_progress: ProgressCallback | None
) -> Trace:
    stage = Stage(policy.engine.scheme, len(observations) * draws, on_progress)
    return trace(policy, observations, draws, advance=stage.advance)


def _roll_out(
    policy: Policy, episodes: int, thresholds: Thresholds, on_progress: ProgressCallback | None
) -> tuple[Rollout, ...]:
    """Simulated episodes on seeds that training never saw."""
    if not episodes:
        return ()
    from pi0_edge.evaluation.rollout import evaluate  # needs the simulation

    name = f"{policy.engine.scheme} in closed loop"
    executed = thresholds.executed
    return evaluate(policy, range(episodes), executed=executed, name=name, on_progress=on_progress).rollouts
