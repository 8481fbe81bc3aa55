"""The C++ policy client with the real policy server: the chunks of the Python client, and its errors."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cpp_client import CHECKS, CheckClient, build_with
from network_peers import make_peers
from numpy.typing import ArrayLike
from policy_builders import CONFIG, DIMS, observation, write_checkpoint

from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.protos import policy_pb2
from pi0_edge.serving.jpeg_images import encode_jpeg
from pi0_edge.serving.policy_client import PolicyClient
from pi0_edge.serving.policy_server import PolicyServer

pytestmark = pytest.mark.slow  # the library is built first

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def check(installed_cpp_client: Path, tmp_path_factory: pytest.TempPathFactory) -> CheckClient:
    return CheckClient(build_with(installed_cpp_client, CHECKS, tmp_path_factory.mktemp("check")) / "check_client")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return Policy.load(write_checkpoint(tmp_path_factory.mktemp("policy") / "checkpoint"), "reference")


@pytest.fixture(scope="module")
def server(policy: Policy) -> Iterator[PolicyServer]:
    running = PolicyServer(policy, "127.0.0.1:0")
    running.start()
    yield running
    running.stop()


def hexadecimal(values: ArrayLike) -> str:
    return " ".join(float(value).hex() for value in np.asarray(values, np.float32).ravel())


def lines(
    asked: Observation, folder: Path, continuation: policy_pb2.Continuation | None = None, jpeg: bool = False
) -> str:
    """An observation as the program of the tests reads it."""
    said = [f"state {hexadecimal(asked.state)}", f"prompt {asked.prompt}", "clock 123 456", f"seed {2**63 + 5}"]
    for camera, image in asked.images.items():
        path = folder / f"{camera}.bin"
        path.write_bytes(encode_jpeg(image, 90) if jpeg else image.tobytes())
        kind = "jpeg" if jpeg else "rgb"
        said.append(f"image {camera} {image.shape[0]} {image.shape[1]} {kind} {path}")
    if continuation is not None:
        head = f"{continuation.delay} {continuation.method} {continuation.schedule} {continuation.overlap}"
        said.append(
            f"continuation {head} {continuation.max_weight.hex()} {hexadecimal(np.array(continuation.actions))}"
        )
    return "\n".join(said)


def expected(server: PolicyServer, jpeg: bool, continuation: policy_pb2.Continuation | None) -> policy_pb2.Chunk:
    with PolicyClient(server.address, jpeg_quality=90 if jpeg else None) as client:
        return client.infer(observation(), 123, 456, 2**63 + 5, continuation)


PLAN = policy_pb2.Continuation(
    actions=np.linspace(-0.4, 0.6, 5 * DIMS, dtype=np.float32).tolist(),
    delay=2,
    schedule=policy_pb2.Continuation.EXP,
    overlap=4,
    max_weight=7.5,
)


@pytest.mark.parametrize("jpeg", [False, True], ids=["raw", "jpeg"])
@pytest.mark.parametrize("continuation", [None, PLAN], ids=["free", "continued"])
def test_a_chunk_is_bit_for_bit_that_of_the_python_client(check, server, tmp_path, jpeg, continuation):
    head, actions = check("infer", server.address, stdin=lines(observation(), tmp_path, continuation, jpeg))
    chunk = expected(server, jpeg, continuation)
    assert head == f"{CONFIG.horizon} {DIMS} 123 456"
    assert [float.fromhex(value) for value in actions.split()] == list(chunk.actions)


def test_a_continued_chunk_is_another_than_a_free_one(check, server, tmp_path):
    free, continued = (
        check("infer", server.address, stdin=lines(observation(), tmp_path, plan))[1] for plan in (None, PLAN)
    )
    assert free != continued


def test_metadata_says_what_the_python_client_reads(check, server):
    with PolicyClient(server.address) as client:
        found = client.metadata()
    hz = f"{found.control_hz:.6f}" if found.HasField("control_hz") else "none"
    head = f"{found.model} {found.engine} {found.scheme} {found.horizon} {found.action_dim} {found.state_dim} {hz}"
    assert check("metadata", server.address) == [
        f"{head} {found.trained_delay} {found.gate}",
        *(f"camera {name}" for name in found.cameras),
        *(f"action {name}" for name in found.action_names),
        f"prompt {found.default_prompt}",
        f"sha256 {found.checkpoint_sha256}",
    ]


def test_a_refusal_names_the_field_as_the_server_does(check, server, tmp_path):
    asked = observation()
    said = lines(asked, tmp_path)
    short = said.replace("image top 40 60", "image top 41 60")
    assert check("infer", server.address, stdin=short) == [
        "ObservationError: images['top'] holds 7200 bytes, but height 41 and width 60 require 7380: height * width * "
        "3, row major, RGB"
    ]
    (refused,) = check(
        "infer", server.address, stdin=lines(replace(asked, state=np.asarray(asked.state)[:3]), tmp_path)
    )
    assert refused.startswith("ObservationError: state ")
    (refused,) = check("infer", server.address, stdin=said.replace("image top", "image elsewhere"))
    assert refused.startswith("ObservationError: ") and "elsewhere" in refused
    frozen = policy_pb2.Continuation(actions=PLAN.actions, delay=2, method=policy_pb2.Continuation.FROZEN_PREFIX)
    (refused,) = check("infer", server.address, stdin=lines(asked, tmp_path, frozen))
    assert refused.startswith("ConfigError: a frozen prefix of 2 actions was asked for")


def test_pixels_that_are_not_there_are_refused_before_anything_is_sent(check, server, tmp_path):
    said = lines(observation(), tmp_path)
    (tmp_path / "top.bin").write_bytes(b"")
    (refused,) = check("infer", server.address, stdin=said)
    assert refused.startswith('ObservationError: images["top"] names no pixels')


def test_an_observation_that_is_too_large_is_refused_with_both_sizes(check, server, tmp_path):
    large = Observation({"top": np.zeros((4000, 3000, 3), np.uint8)}, observation().state, "Transfer cube")
    (refused,) = check("infer", server.address, stdin=lines(large, tmp_path))
    assert refused.startswith("ObservationError: the observation has 34.3 MiB, expected at most 32 MiB")


def test_a_server_that_is_gone_is_named(check, policy):
    gone = PolicyServer(policy, "127.0.0.1:0")
    gone.start()
    address = gone.address
    gone.stop()
    (refused,) = check("infer", address)
    assert refused.startswith(f"ServingError: no policy server answers at {address} (")


@pytest.fixture
def silent() -> Iterator[str]:
    """An address where connections are accepted and nothing ever answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_does_not_answer_is_given_up_after_the_deadline(check, silent):
    (refused,) = check("infer", silent, "-", "300", timeout_s=20)
    assert refused.startswith(f"DeadlineError: the policy server at {silent} did not answer in time (")


def test_another_thread_ends_a_call(check, silent):
    assert check("cancel", silent, "-", "60000", timeout_s=30) == [
        f"ServingError: the call to the policy server at {silent} was cancelled"
    ]


def test_certificates(check, policy, tmp_path):
    peers = make_peers(tmp_path)
    server = PolicyServer(policy, "127.0.0.1:0", tls=peers["server"])
    server.start()
    try:
        assert check("metadata", server.address, str(peers["observe"]))[0].startswith("pi0 reference ")
        for none in ("-", str(peers["foreign authority"]), str(peers["expired"])):
            (refused,) = check("infer", server.address, none)
            assert refused.startswith(f"ServingError: the policy server at {server.address} accepts no connection: it ")
    finally:
        server.stop()
    (peers["observe"] / "key.pem").chmod(0o644)
    (refused,) = check("infer", server.address, str(peers["observe"]))
    assert refused.startswith("EndpointError: the key ") and "chmod 600" in refused
    (refused,) = check("infer", server.address, str(tmp_path / "nowhere"))
    assert refused.startswith("EndpointError: ") and "authority.pem cannot be read" in refused
