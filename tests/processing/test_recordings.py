"""The processor on a real recording of a Unitree G1 (tests/data/g1_recording)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from processing_builders import RECORDING, character_tokenizer, tiny_config

from pi0_edge.processing import Mode, Normalization, Normalizer, Observation, ObservationProcessor, load_robot

EPISODE = 0


@pytest.fixture(scope="module")
def dataset():
    reader = pytest.importorskip("pi0_edge.datasets.lerobot_reader", reason="datasets need pyarrow and av")
    return reader.LeRobotDataset(RECORDING)


def quantiles(values):
    return {"q01": np.quantile(values, 0.01, axis=0), "q99": np.quantile(values, 0.99, axis=0)}


@pytest.fixture(scope="module")
def g1(dataset, tmp_path_factory):
    episode = dataset.episode(EPISODE)
    state, action = (Normalizer(Mode.OPENPI_QUANTILE, quantiles(np.float64(v))) for v in episode)
    tokenizer = character_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return ObservationProcessor(load_robot("g1"), tokenizer, Normalization(state, action), tiny_config())


def test_recorded_names_are_those_of_the_layout(dataset):
    recorded = [name.removeprefix("k").lower() for name in dataset.features["action"]["names"][0]]
    ours = [name.replace("_", "").replace("lefthand", "left") for name in load_robot("g1").action_names]
    assert [name.replace("hand", "") for name in recorded] == ours


def test_frames_and_states_enter_the_network(dataset, g1):
    episode = dataset.episode(EPISODE)
    for row, frame in enumerate(itertools.islice(dataset.frames(EPISODE, "cam_high"), 3)):
        assert frame.shape == (480, 640, 3)
        inputs = g1.to_model_inputs(Observation({"cam_high": frame}, episode.state[row], "pick up the bottle"))
        image = inputs.images[0, 0]
        assert (image[:, :28] == -1).all() and (image[:, 196:] == -1).all(), "28 black rows above and below 168"
        assert float(image[:, 28:196].std()) > 0.1, "a real image lies between them"
        assert inputs.state[0, 26:].abs().max() == 0


def test_nearly_all_recorded_states_lie_in_the_normalized_range(dataset, g1):
    state = g1.normalization.state.forward(dataset.episode(EPISODE).state)
    assert np.mean(np.abs(state) <= 1.0 + 1e-6) > 0.97


def test_recorded_actions_return_unchanged(dataset, g1):
    episode = dataset.episode(EPISODE)
    observation = Observation({}, episode.state[0], "x")
    chunk = g1.to_normalized(episode.action[:50], observation)
    np.testing.assert_allclose(g1.to_physical(chunk, observation), episode.action[:50], atol=1e-6)
