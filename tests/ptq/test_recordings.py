"""Real recordings of a Unitree G1: split, checked and calibrated on with a small network."""

import numpy as np
import pytest
import torch
from processing_builders import SHARED, character_tokenizer

from pi0_edge.engine.reference import ReferenceEngine
from pi0_edge.errors import DatasetError, ObservationError
from pi0_edge.model import GemmaConfig, Pi0, Pi0Config, VisionConfig
from pi0_edge.policy import Policy
from pi0_edge.processing import Mode, Normalization, Normalizer, ObservationProcessor, load_robot
from pi0_edge.ptq.calibration import MINIMUM_FRAMES, calibrate_policy
from pi0_edge.ptq.frame_checks import inspect_frames
from pi0_edge.ptq.frames import split_frames
from pi0_edge.ptq.sources import open_source

RECORDINGS = SHARED / "data" / "g1_lerobot_v21"
GEMMA = GemmaConfig(width=32, depth=2, mlp_dim=48, heads=2, kv_heads=1, head_dim=16)
CONFIG = Pi0Config("pi0", VisionConfig(32, 1, 48, 2, patch_size=14, image_size=56), GEMMA, GEMMA, 512)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def source():
    if not RECORDINGS.is_dir():
        pytest.skip(f"no recordings at {RECORDINGS}")
    pytest.importorskip("pi0_edge.datasets.lerobot_reader", reason="datasets need pyarrow and av")
    return open_source(RECORDINGS, load_robot("g1"))


@pytest.fixture(scope="module")
def processor(source, tmp_path_factory):
    from pi0_edge.datasets.lerobot_reader import LeRobotDataset

    stats = LeRobotDataset(RECORDINGS).stats
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


def test_episodes_whose_files_are_there_are_split_in_two(source):
    assert (source.kind, source.cameras, len(source.lengths)) == ("lerobot v2.1", ("cam_high",), 5)
    split = split_frames(source, 64, 64, 0)
    assert (len(split.calibration), len(split.held_out)) == (64, 64)
    episodes = [{place.episode for place in frames.places} for frames in (split.calibration, split.held_out)]
    assert episodes[0] | episodes[1] == set(range(5)) and not episodes[0] & episodes[1]


def test_real_frames_pass_and_calibrate(source, policy):
    frames = split_frames(source, MINIMUM_FRAMES, 0, 0).calibration
    calibration = calibrate_policy(policy, frames, 0)
    assert (calibration.source.kind, calibration.source.frames) == ("lerobot v2.1", MINIMUM_FRAMES)
    assert calibration.source.sha256 == inspect_frames(frames, policy.processor, MINIMUM_FRAMES).sha256
    assert calibration.layers["vision.layers.0.attention.q"].tokens == MINIMUM_FRAMES * CONFIG.vision.tokens


def test_real_frames_with_another_robots_statistics_are_refused(source, processor):
    narrow = {"mean": np.zeros(26), "std": np.full(26, 0.01)}
    field = Normalizer(Mode.OPENPI_ZSCORE, narrow)
    other = ObservationProcessor(processor.robot, processor.tokenizer, Normalization(field, field), CONFIG)
    with pytest.raises(ObservationError, match=r"the state of joint \w+ is .*, expected -0.1 to 0.1"):
        inspect_frames(split_frames(source, MINIMUM_FRAMES, 0, 0).calibration, other, MINIMUM_FRAMES)


def test_the_first_moments_of_an_episode_do_not_differ_enough(source, processor):
    from pi0_edge.ptq.frames import Frames, Place

    start = Frames(source, tuple(Place(3, frame) for frame in range(MINIMUM_FRAMES)))
    with pytest.raises(DatasetError, match=r"same image in all 16 frames|of 16 frames .* differ from each other"):
        inspect_frames(start, processor, MINIMUM_FRAMES)
