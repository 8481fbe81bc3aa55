"""`serve --record`: every observation that is answered is on disk, up to the limit, and no chunk waits for it."""

import threading

import numpy as np
import pytest
import torch
from policy_builders import observation, write_checkpoint

from pi0_edge.errors import ObservationError, ServingError
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.processing.recordings import ObservationArchive
from pi0_edge.serving import observation_recorder
from pi0_edge.serving.observation_recorder import ObservationRecorder
from pi0_edge.serving.policy_client import PolicyClient
from pi0_edge.serving.policy_server import PolicyServer

torch.set_num_threads(1)
IMAGE_BYTES = 40 * 60 * 3


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Policy:
    return Policy.load(write_checkpoint(tmp_path_factory.mktemp("policy") / "checkpoint"), "reference")


def test_answered_observations_are_recorded_with_their_clock(policy, tmp_path):
    recorder = ObservationRecorder(tmp_path)
    server = PolicyServer(policy, "127.0.0.1:0", recorder=recorder)
    server.start()
    with PolicyClient(server.address) as client:
        for number in range(3):
            client.infer(observation(number), tick=100 + number, capture_time_ns=number)
        with pytest.raises(ObservationError):
            client.infer(Observation({}, observation().state), 1, 1)
    server.stop()
    recorder.close()
    assert (recorder.recorded, recorder.left_out) == (3, 0)
    files = sorted(recorder.folder.iterdir())
    assert [path.name for path in files] == ["000001.npz", "000002.npz", "000003.npz"]
    for number, path in enumerate(files):
        (found,) = ObservationArchive(path).read([0], ["top"])
        np.testing.assert_array_equal(found.images["top"], observation(number).images["top"])
        np.testing.assert_allclose(np.asarray(found.state), np.asarray(observation(number).state), atol=1e-6)
        with np.load(path, allow_pickle=False) as file:
            assert (file["tick"][0], file["capture_time_ns"][0]) == (100 + number, number)


def test_the_limit_holds_over_all_runs(tmp_path):
    limit = 6 * (IMAGE_BYTES + 4000)
    first = ObservationRecorder(tmp_path, limit)
    for number in range(3):
        first.record(observation(number), 0, 0)
    first.close()
    assert (first.recorded, first.left_out) == (3, 0)
    second = ObservationRecorder(tmp_path, limit)
    for number in range(8):
        second.record(observation(number), 0, 0)
    second.close()
    assert second.folder != first.folder
    assert 1 <= second.recorded < 8 and second.recorded + second.left_out == 8
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= limit
    with pytest.raises(ServingError, match="of observations already"):
        ObservationRecorder(tmp_path, 1000)


def test_a_slow_disk_costs_observations_and_never_time(tmp_path, monkeypatch):
    stuck = threading.Event()
    write = observation_recorder.write_observation_archive

    def slow(*arguments: object) -> None:
        stuck.wait(10)
        write(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(observation_recorder, "write_observation_archive", slow)
    recorder = ObservationRecorder(tmp_path)
    for number in range(50):
        recorder.record(observation(number), 0, 0)
    assert recorder.left_out >= 40 and not stuck.is_set()
    stuck.set()
    recorder.close()
    assert recorder.recorded + recorder.left_out == 50


def test_a_disk_that_fails_ends_the_recording_and_nothing_else(tmp_path, caplog):
    recorder = ObservationRecorder(tmp_path)
    recorder.folder.rmdir()
    for number in range(3):
        recorder.record(observation(number), 0, 0)
    recorder.close()
    assert (recorder.recorded, recorder.left_out) == (0, 3)
    assert caplog.text.count("recording ends after 0 observations") == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ServingError, match="cannot record into"):
        ObservationRecorder(tmp_path / "file" / "folder")
