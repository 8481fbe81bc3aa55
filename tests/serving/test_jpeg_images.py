"""Images that cross the network as JPEG: what is taken, and what is refused before it is decoded."""

from __future__ import annotations

import contextlib
import io
import time

import grpc
import numpy as np
import pytest
import torch
from PIL import Image
from policy_builders import observation, write_checkpoint

from pi0_edge.errors import ConfigError, ObservationError
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.protos import policy_pb2, policy_pb2_grpc
from pi0_edge.serving.jpeg_images import decode_jpeg, encode_jpeg, read_header
from pi0_edge.serving.messages import MESSAGE_LIMIT, read_observation
from pi0_edge.serving.policy_client import PolicyClient, write_observation
from pi0_edge.serving.policy_server import PolicyServer

torch.set_num_threads(1)

HEIGHT, WIDTH = 40, 60


def smooth() -> np.ndarray:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([4 * x, 5 * y, 200 - x - y], -1).astype(np.uint8)


def saved(picture: np.ndarray | None = None, mode: str = "RGB", **options) -> bytes:
    content = io.BytesIO()
    Image.fromarray(smooth() if picture is None else picture).convert(mode).save(content, "JPEG", **options)
    return content.getvalue()


def with_size(content: bytes, height: int, width: int) -> bytes:
    """Another size in the frame header, as a decompression bomb has it."""
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + content[place + 4 :]


@pytest.mark.parametrize(("quality", "most"), [(95, 6), (80, 12), (30, 40)])
def test_what_is_encoded_decodes_to_nearly_the_same(quality, most):
    found = decode_jpeg(encode_jpeg(smooth(), quality), HEIGHT, WIDTH)
    assert (found.shape, found.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert np.abs(found.astype(int) - smooth()).max() <= most


def test_red_stays_red():
    red = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    red[..., 0] = 250
    assert (decode_jpeg(encode_jpeg(red, 90), HEIGHT, WIDTH).mean((0, 1)) - [250, 0, 0]).max() < 5


@pytest.mark.parametrize(
    "options", [{}, {"quality": 100, "subsampling": 0}, {"optimize": True}, {"comment": b"x" * 900}]
)
def test_what_other_encoders_write_by_default_is_taken(options):
    assert decode_jpeg(saved(**options), HEIGHT, WIDTH).shape == (HEIGHT, WIDTH, 3)


def test_an_orientation_tag_turns_nothing():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_jpeg(saved(exif=exif), HEIGHT, WIDTH).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no JPEG: it has no frame header"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "no JPEG"),
        (b"\xff\xd8\xff\xd9", "no JPEG"),
        (b"\xff\xd8" + b"\xff" * 5000, "no JPEG"),
        (saved()[:200], "no JPEG|cannot be decoded"),
        (saved()[:-100], "cannot be decoded: image file is truncated"),
        (saved(progressive=True), "a progressive or lossless JPEG with 3 components, expected a baseline one"),
        (saved(mode="L"), "a baseline JPEG with 1 components, expected a baseline one with 3"),
        (saved(mode="CMYK"), "JPEG with 4 components"),
        (saved(np.zeros((8, 9, 3), np.uint8)), "a JPEG of height 8 and width 9, but the request says 40 and 60"),
        (with_size(saved(), 65_000, 65_000), "a JPEG of height 65000 and width 65000"),
        (saved() + bytes(200_000), r"a JPEG of \d+ bytes, expected at most 72736 for height 40 and width 60; send rgb"),
    ],
)
def test_what_is_refused_and_why(content, message):
    begun = time.monotonic()
    with pytest.raises(ObservationError, match=message):
        decode_jpeg(content, HEIGHT, WIDTH)
    assert time.monotonic() - begun < 0.5


def test_a_second_frame_header_is_refused():
    """The first could name a small size, and a decoder take the second."""
    content = saved()
    place = content.index(b"\xff\xc0")
    header = content[place : place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")]
    with pytest.raises(ObservationError, match="two frame headers"):
        read_header(content[:place] + header + content[place:])


def test_random_damage_is_refused_or_decoded_and_nothing_else():
    rng = np.random.default_rng(0)
    whole = saved()
    for _ in range(400):
        content = bytearray(whole)
        for place in rng.integers(0, len(content), rng.integers(1, 8)):
            content[place] = rng.integers(256)
        with contextlib.suppress(ObservationError):
            assert decode_jpeg(bytes(content), HEIGHT, WIDTH).shape == (HEIGHT, WIDTH, 3)


def test_jpegs_that_unfold_to_more_than_a_message_are_refused_before_any_is_read():
    side = 2000
    image = {"height": side, "width": side, "jpeg": b"not read"}
    message = policy_pb2.Observation(images=[policy_pb2.Image(camera=str(k), **image) for k in range(3)])
    assert 3 * side * side * 3 > MESSAGE_LIMIT
    with pytest.raises(
        ObservationError, match="images are JPEGs of 36000000 bytes of pixels, expected at most 33554432"
    ):
        read_observation(message)


def test_one_camera_can_be_raw_and_another_jpeg():
    images = {"top": smooth(), "wrist": smooth()}
    message = write_observation(Observation(images, np.zeros(2), None), 1, 2, None)
    compressed = write_observation(Observation(images, np.zeros(2), None), 1, 2, None, jpeg_quality=80)
    message.images[1].CopyFrom(compressed.images[1])
    found = read_observation(message).images
    assert np.array_equal(found["top"], smooth())
    assert not np.array_equal(found["wrist"], smooth())
    assert len(compressed.images[0].jpeg) * 3 < len(message.images[0].rgb)
    assert not compressed.images[0].rgb


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Policy:
    return Policy.load(write_checkpoint(tmp_path_factory.mktemp("policy") / "checkpoint"), "reference")


@pytest.fixture(scope="module")
def server(policy):
    with PolicyServer(policy, "127.0.0.1:0") as running:
        yield running


def test_a_client_sends_jpeg_and_the_policy_sees_what_was_decoded(policy, server):
    seen = observation()
    decoded = {name: decode_jpeg(encode_jpeg(image, 70), *image.shape[:2]) for name, image in seen.images.items()}
    with PolicyClient(server.address, jpeg_quality=70) as client:
        client.wait_ready(10)
        chunk = client.infer(seen, 1, 2, noise_seed=3)
    expected = policy.infer(Observation(decoded, seen.state, seen.prompt), 3).actions
    found = np.array(chunk.actions).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)  # the state crosses as float32
    assert np.abs(found - policy.infer(seen, 3).actions).max() > 1e-3, "JPEG changes what the policy sees"


def test_a_server_refuses_a_bad_jpeg_by_the_name_of_its_camera(server):
    message = write_observation(observation(), 1, 2, None)
    message.images[0].jpeg = saved(progressive=True)
    message.images[0].height, message.images[0].width = HEIGHT, WIDTH
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as refused:
        policy_pb2_grpc.PolicyServiceStub(channel).Infer(message, timeout=10)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT  # pyright: ignore[reportAttributeAccessIssue]
    details = str(refused.value.details())  # pyright: ignore[reportAttributeAccessIssue]
    assert details.startswith("images['top'] is a progressive or lossless JPEG")


@pytest.mark.parametrize("quality", [0, 101, 90.0, True, "high"])
def test_a_quality_that_is_not_possible(quality):
    with pytest.raises(ConfigError, match=r"jpeg_quality is .*, expected 1 to 100, or None"):
        PolicyClient("127.0.0.1:1", jpeg_quality=quality)
