"""A real recording of a Unitree G1 (tests/data/g1_recording), split, checked, and used to calibrate a small network."""

import numpy as np
import pytest
import torch
from processing_builders import RECORDING, character_tokenizer

from pi0_edge.engine.reference import ReferenceEngine
from pi0_edge.errors import DatasetError, ObservationError
from pi0_edge.model import GemmaConfig, Pi0, Pi0Config, VisionConfig
from pi0_edge.policy import Policy
from pi0_edge.processing import Mode, Normalization, Normalizer, ObservationProcessor, load_robot
from pi0_edge.ptq.calibration import MINIMUM_FRAMES, calibrate_policy
from pi0_edge.ptq.frame_checks import inspect_frames
from pi0_edge.ptq.frames import split_frames
from pi0_edge.ptq.sources import open_source

FRAMES = 48
"""At 30 Hz neighbours look the same, so that more are needed for `MINIMUM_FRAMES` that differ."""
GEMMA = GemmaConfig(width=32, depth=2, mlp_dim=48, heads=2, kv_heads=1, head_dim=16)
CONFIG = Pi0Config("pi0", VisionConfig(32, 1, 48, 2, patch_size=14, image_size=56), GEMMA, GEMMA, 512)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def source():
    pytest.importorskip("pi0_edge.datasets.lerobot_reader", reason="datasets need pyarrow and av")
    return open_source(RECORDING, load_robot("g1"))


@pytest.fixture(scope="module")
def processor(source, tmp_path_factory):
    from pi0_edge.datasets.lerobot_reader import LeRobotDataset

    stats = LeRobotDataset(RECORDING).stats
    fields = [
        Normalizer(Mode.OPENPI_ZSCORE, {name: np.asarray(stats[key][name], np.float64) for name in ("mean", "std")})
        for key in ("observation.state", "action")
    ]
    tokenizer = character_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return ObservationProcessor(load_robot("g1"), tokenizer, Normalization(*fields), CONFIG)


@pytest.fixture(scope="module")
def policy(processor):
    torch.manual_seed(0)
    return Policy(ReferenceEngine(Pi0(CONFIG)), processor)


def test_episodes_are_split_into_calibration_and_held_out(source):
    assert (source.kind, source.cameras, len(source.lengths)) == ("lerobot v2.1", ("cam_high",), 2)
    split = split_frames(source, 64, 64, 0)
    assert (len(split.calibration), len(split.held_out)) == (64, 64)
    episodes = [{place.episode for place in frames.places} for frames in (split.calibration, split.held_out)]
    assert episodes[0] | episodes[1] == {0, 1} and not episodes[0] & episodes[1]


def test_real_frames_pass_and_calibrate(source, policy):
    frames = split_frames(source, FRAMES, 0, 0).calibration
    calibration = calibrate_policy(policy, frames, 0)
    assert (calibration.source.kind, calibration.source.frames) == ("lerobot v2.1", FRAMES)
    assert calibration.source.sha256 == inspect_frames(frames, policy.processor, MINIMUM_FRAMES).sha256
    assert calibration.layers["vision.layers.0.attention.q"].tokens == FRAMES * CONFIG.vision.tokens


def test_real_frames_with_another_robots_statistics_are_refused(source, processor):
    narrow = {"mean": np.zeros(26), "std": np.full(26, 0.01)}
    field = Normalizer(Mode.OPENPI_ZSCORE, narrow)
    other = ObservationProcessor(processor.robot, processor.tokenizer, Normalization(field, field), CONFIG)
    with pytest.raises(ObservationError, match=r"the state of joint \w+ is .*, expected -0.1 to 0.1"):
        inspect_frames(split_frames(source, MINIMUM_FRAMES, 0, 0).calibration, other, MINIMUM_FRAMES)


def test_the_first_half_second_of_an_episode_is_refused_as_too_few_different_frames(source, processor):
    from pi0_edge.ptq.frames import Frames, Place

    start = Frames(source, tuple(Place(0, frame) for frame in range(MINIMUM_FRAMES)))
    with pytest.raises(DatasetError, match=r"same image in all 16 frames|of 16 frames .* differ from each other"):
        inspect_frames(start, processor, MINIMUM_FRAMES)
