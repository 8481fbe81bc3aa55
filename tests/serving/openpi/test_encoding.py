"""Messages of openpi: vectors written byte by byte, round trips, and what has to be refused."""

from __future__ import annotations

import resource
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from openpi_messages import DTYPES, aloha, array_of, binary, hostile, text, write
from run import read_corpus

from pi0_edge.errors import ObservationError

pytest.importorskip("msgpack", reason="needs the extra openpi")

from pi0_edge.processing import load_robot
from pi0_edge.serving.openpi.encoding import (
    DTYPES as ALLOWED,
)
from pi0_edge.serving.openpi.encoding import (
    LARGEST_DEPTH,
    LONGEST_TEXT,
    MOST_ITEMS,
    decode,
    encode,
)
from pi0_edge.serving.openpi.observations import read_request

ARRAY = bytes.fromhex(
    "84 c40b 5f5f6e6461727261795f5f c3 c404 64617461 c406 000102030405 c405 6474797065 a3 7c7531"
    "c405 7368617065 92 02 03"
)
SCALAR = bytes.fromhex(
    "83 c40d 5f5f6e7067656e657269635f5f c3 c404 64617461 cb 3fe0000000000000 c405 6474797065 a3 3c6634"
)


def test_an_array_has_the_bytes_of_openpis_own():
    value = np.array([[0, 1, 2], [3, 4, 5]], np.uint8)
    assert encode(value) == ARRAY
    np.testing.assert_array_equal(decode(ARRAY), value)
    assert not decode(ARRAY).flags.writeable


def test_a_scalar_has_the_bytes_of_openpis_own():
    assert encode(np.float32(0.5)) == SCALAR
    assert decode(SCALAR) == 0.5
    assert encode(np.float64(0.5)) == bytes.fromhex("cb 3fe0000000000000")  # it is a float


def test_strides_do_not_show():
    value = np.arange(6, dtype=np.uint8).reshape(3, 2).T
    np.testing.assert_array_equal(decode(encode(value)), value)


@pytest.mark.parametrize("head", [b"\x84", b"\xde\x00\x04", b"\xdf\x00\x00\x00\x04"])
def test_a_map_may_be_written_in_each_width(head: bytes):
    np.testing.assert_array_equal(decode(head + ARRAY[1:]), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("dtype", ALLOWED)
def test_every_dtype_of_the_list_arrives(dtype: str):
    value = np.array([[1, 0, 3]]).astype(dtype)
    np.testing.assert_array_equal(decode(write(value)), value)
    assert decode(write(value)).dtype == value.dtype


def test_a_text_of_numpy_arrives_as_text():
    assert decode(write(np.asarray("pick π"))) == "pick π"
    assert decode(array_of(binary("ab".encode("utf-32-le") + bytes(8)), text("<U4"), b"\x90")) == "ab"


def test_bytes_that_are_no_bool_are_true():
    value = decode(array_of(binary(b"\0\1\7"), text("|b1"), write([3])))
    assert value.view(np.uint8).tolist() == [0, 1, 1]


numbers = st.one_of(st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.booleans(), st.none())
plain = st.recursive(
    numbers
    | st.text(max_size=40)
    | numpy_strategies.arrays(st.sampled_from(list(ALLOWED)), (2, 3), elements=st.just(1)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_what_is_encoded_is_decoded(value: object):
    try:
        decoded = decode(encode(value))
    except ObservationError as error:
        assert f"inside of more than {LARGEST_DEPTH}" in str(error) or "whose keys are str" in str(error)
        return
    assert equal(decoded, value)


def equal(one: object, other: object) -> bool:
    if isinstance(other, np.ndarray):
        return isinstance(one, np.ndarray) and one.dtype == other.dtype and bool(np.array_equal(one, other))
    if isinstance(other, list):
        return isinstance(one, list) and len(one) == len(other) and all(map(equal, one, other))
    if isinstance(other, dict):
        return isinstance(one, dict) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in other)
    return type(one) is type(other) and one == other


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_a_refusal(data: bytes):
    try:
        decode(data)
    except ObservationError as error:
        assert 0 < len(str(error)) < 1000


@given(plain)
def test_our_reader_and_msgpack_agree(value: object):
    msgpack = pytest.importorskip("msgpack")
    data = msgpack.packb(value, default=lambda array: array.tolist())
    try:
        assert equal(decode(data), msgpack.unpackb(data))
    except ObservationError as error:
        assert f"inside of more than {LARGEST_DEPTH}" in str(error) or "whose keys are str" in str(error)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dtype_that_is_not_listed_is_refused_by_name(dtype: str):
    with pytest.raises(ObservationError, match=r"^state "):
        decode(b"\x81" + text("state") + array_of(binary(b"\1" * 112), text(dtype), write([14])))


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"", "the message needs 1 bytes more"),
        (b"\xc0\xc0", "ends 1 bytes before"),
        (write({"a": 1}) + b"x", "ends 1 bytes before"),
        (b"\xc1", "code 0xc1"),
        (b"\xd4\x01\x00", "code 0xd4"),
        (b"\x82\xa1a\x01\xa1a\x02", "key 'a' twice"),
        (b"\x81\x01\x02", "a key of msgpack code 0x01, expected a text"),
        (b"\x81\x90\x02", "a key of msgpack code 0x90"),
        (b"\x81" + text("x" * 257) + b"\xc0", "expected a text of at most 256"),
        (b"\x81" + text("a\nb") + b"\xc1", r"'a\\nb' has the msgpack code"),
        (b"\xa2\xff\xff", "not UTF-8"),
        (b"\x91" * (LARGEST_DEPTH + 1) + b"\xc0", "more than 8 lists and maps"),
        (write([0] * MOST_ITEMS), f"beyond item {MOST_ITEMS}"),
        (text("x" * (LONGEST_TEXT + 1)), "expected at most"),
        (b"\xdd\xff\xff\xff\xff", "announces 4294967295 entries"),
        (write({"__ndarray__": True}), "write its keys as bin"),
        (b"\x81" + binary(b"__ndarray__") + b"\xc3", "other keys than"),
        (array_of(binary(bytes(8)), text("<f8"), write([2])), "holds 8 bytes, but shape .2. of <f8 requires 16"),
        (array_of(binary(bytes(8)), text("<f8"), write([-1])), "whole numbers from 0 on"),
        (array_of(binary(bytes(8)), text("<f8"), write([True])), "whole numbers from 0 on"),
        (array_of(binary(bytes(8)), text("<f8"), write([1] * 5)), "at most 4 whole numbers"),
        (array_of(binary(b""), text("<f8"), write([0, 2**62])), "without any value"),
        (array_of(binary(b"\0\xd8\0\0"), text("<U1"), b"\x90"), "not UTF-32"),
        (array_of(binary(bytes(8)), text("<U2"), write([1])), "<U of no dimensions"),
    ],
)
def test_what_is_wrong_is_said(message: bytes, said: str):
    with pytest.raises(ObservationError, match=said):
        decode(message)


def test_a_message_names_the_field_however_deep_it_lies():
    message = aloha()
    message["images"]["cam_high"] = {"a": [1, {"b": float("nan")}]}
    broken = write(message).replace(b"\xcb\x7f\xf8", b"\xc1\x7f\xf8")
    with pytest.raises(ObservationError, match=r"^images\.cam_high\.a\[1\]\.b has the msgpack code 0xc1"):
        decode(broken)


def test_ten_thousand_hostile_messages_are_refused_and_take_no_memory():
    robot = load_robot("aloha_sim")
    refused, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for message, has_to_be_refused in hostile(10_000):
        try:
            read_request(message, robot)
        except ObservationError as error:
            refused += 1
            assert 0 < len(str(error)) < 2000
        else:
            assert not has_to_be_refused, message[:200]
    assert refused > 9_000
    # The largest message has 800 kB; nothing that a message says makes more of it than a small multiple.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_hostile_messages_of_other_seeds_are_refused(seed: int):
    robot = load_robot("aloha_sim")
    for message, has_to_be_refused in hostile(8, seed):
        try:
            read_request(message, robot)
        except ObservationError:
            continue
        assert not has_to_be_refused, message[:200]


def test_the_corpus_of_the_fuzzer_shows_no_fault():
    from openpi_target import check

    for data in read_corpus("openpi"):
        check(data)


def test_lists_of_a_large_message_take_no_memory():
    """32 MiB of empty lists are 2 GiB of Python's objects, for a reader that makes them before it counts."""
    message = b"\xdd" + struct.pack(">I", (32 << 20) - 5) + b"\x90" * ((32 << 20) - 5)
    tracemalloc.start()
    try:
        with pytest.raises(ObservationError, match="beyond item"):
            decode(message)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
