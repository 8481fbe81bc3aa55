"""Pickles of stock clients are read as data; every other one is refused, and none is executed."""

from __future__ import annotations

import random
import struct
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from lerobot_stand_in import MODULES

from pi0_edge.errors import ObservationError
from pi0_edge.serving.lerobot_async import pickle_reader
from pi0_edge.serving.lerobot_async.pickle_reader import BYTES_LIMIT, OPCODES_LIMIT, Record, read_pickle

HELPERS = MODULES[0].encode()
BEGIN = b"\x80\x04c" + HELPERS + b"\nTimedObservation\n)\x81}("
END = b"ub."
RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
FROM_BUFFER = b"cnumpy._core.numeric\n_frombuffer\n"

watched: list[str] | None = None


def audit(event: str, _arguments: tuple[object, ...]) -> None:
    if watched is not None and (event in ("import", "exec", "compile", "open") or event.startswith(("os.", "pickle."))):
        watched.append(event)


sys.addaudithook(audit)


@contextmanager
def nothing_is_executed() -> Iterator[None]:
    """Python tells of every import, opened file, unpickled global and executed code."""
    global watched
    watched = []
    try:
        yield
        assert watched == []
    finally:
        watched = None


def dtype(text: bytes = b"u1", order: bytes = b"|") -> bytes:
    return (
        b"cnumpy\ndtype\n"
        + short(text)
        + b"\x89\x88\x87R(K\x03"
        + short(order)
        + b"NNNJ"
        + b"\xff" * 4
        + b"J"
        + (b"\xff" * 4 + b"K\x00tb")
    )


def short(text: bytes) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text


def number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def array(shape: list[int], data: bytes, kind: bytes = b"u1", order: bytes = b"|") -> bytes:
    written = b"(" + b"".join(map(number, shape)) + b"t"
    return (
        RECONSTRUCT + b"(K\x01" + written + dtype(kind, order) + b"\x89B" + struct.pack("<I", len(data)) + data + b"tb"
    )


def message(value: bytes) -> bytes:
    """A TimedObservation with this value as its only field."""
    return BEGIN + short(b"observation") + value + END


def nested(depth: int) -> bytes:
    return b"]" * depth + b"a" * (depth - 1)


def doubled(times: int) -> bytes:
    """A list that holds the one before it twice, and so on: small to write, endless to walk through."""
    return (
        b"]r"
        + struct.pack("<I", 0)
        + b"".join(
            b"](" + 2 * (b"j" + struct.pack("<I", place)) + b"er" + struct.pack("<I", place + 1)
            for place in range(times)
        )
    )


HOSTILE = {
    "nothing": b"",
    "only a protocol": b"\x80\x04",
    "no protocol": b"}.",
    "protocol 1": b"\x80\x01}.",
    "protocol 6": b"\x80\x06}.",
    "two protocols": b"\x80\x04\x80\x04}.",
    "a plain value": b"\x80\x04K\x01.",
    "a global alone": b"\x80\x04c" + HELPERS + b"\nTimedObservation\n.",
    "an object without a state": BEGIN[:-2] + b".",
    "GLOBAL os.system": message(b"cos\nsystem\n" + short(b"true") + b"\x85R"),
    "STACK_GLOBAL os.system": message(short(b"os") + short(b"system") + b"\x93" + short(b"true") + b"\x85R"),
    "a dotted name": message(short(b"numpy") + short(b"ndarray.dtype") + b"\x93"),
    "a backslash in a name": message(rb"c\x6fs" + b"\nsystem\n"),
    "a global without an end": message(b"cos"),
    "STACK_GLOBAL of lists": message(b"]]\x93"),
    "STACK_GLOBAL of an endless list": message(doubled(60) + short(b"system") + b"\x93"),
    "INST": message(b"(" + short(b"true") + b"ios\nsystem\n"),
    "OBJ": message(b"(cos\nsystem\n" + short(b"true") + b"o"),
    "NEWOBJ_EX": message(b"cnumpy\nndarray\n)}\x92"),
    "NEWOBJ of an array": message(b"cnumpy\nndarray\n)\x81"),
    "NEWOBJ with arguments": b"\x80\x04c" + HELPERS + b"\nTimedObservation\nK\x01\x85\x81}b.",
    "EXT1": message(b"\x82\x01"),
    "PERSID": message(b"Pname\n"),
    "BINPERSID": message(b"K\x01Q"),
    "NEXT_BUFFER": message(b"\x97"),
    "INT in text": message(b"I" + b"9" * 4000 + b"\n"),
    "LONG4": message(b"\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20)),
    "a number of 2000 bits": message(b"\x8a\xff" + b"\x7f" * 255),
    "DUP": message(b"K\x012"),
    "SETITEMS without a map": b"\x80\x04](K\x01K\x02u.",
    "APPENDS without a list": b"\x80\x04}(K\x01e.",
    "a key that is a number": message(b"}(K\x01K\x02u"),
    "a key that is a list": message(b"}(]K\x02u"),
    "an odd count of items": message(b"}(" + short(b"a") + b"u"),
    "BUILD twice": BEGIN + b"u}b}b.",
    "BUILD of a list": message(b"]}b"),
    "BUILD of a dtype with fields": message(b"cnumpy\ndtype\n" + short(b"V8") + b"\x89\x88\x87R}b"),
    "an array without a state": message(RECONSTRUCT),
    "_reconstruct of another class": message(RECONSTRUCT.replace(b"ndarray", b"dtype")),
    "2**62 items": message(array([1 << 62], b"")),
    "2**80 bits of items": message(array([1 << 40, 1 << 40, 0], b"")),
    "a negative shape": message(array([-1], b"1234")),
    "a truth value as a shape": message(FROM_BUFFER + b"(C\x011" + dtype() + b"\x88\x85" + short(b"C") + b"tR"),
    "a shape of 5": message(array([1] * 5, b"1")),
    "too few bytes": message(array([2, 2], b"123")),
    "too many bytes": message(array([2, 2], b"12345")),
    "truth values of 7": message(array([1], b"\x07", b"b1")),
    "objects": message(array([1], b"\x41" * 8, b"O8")),
    "nothings": message(array([1 << 30], b"", b"V0")),
    "bytes as a value": message(b"C\x0212"),
    "deep": message(nested(15)),
    "very deep": message(nested(9_000)),
    "doubled lists": message(doubled(60)),
    "a list in itself": message(b"]q\x00h\x00a"),
    "a map in itself": message(b"}q\x00" + short(b"a") + b"h\x00s"),
    "many opcodes": message(b"](" + b"N" * OPCODES_LIMIT + b"e"),
    "a full memo": message(b"N" + b"\x94" * 10_001),
    "a memo of nothing": b"\x80\x04\x94.",
    "a memo that is not there": message(b"h\x07"),
    "half of a surrogate pair": message(b"X\x03\x00\x00\x00\xed\xa0\x80"),
    "text that is no UTF-8": message(short(b"\xff\xfe")),
    "a length beyond the end": message(b"X\xff\xff\xff\xffabc"),
    "8 exbibytes": message(b"\x8e" + b"\xff" * 7 + b"\x7fabc"),
    "a second pickle": message(b"N") + message(b"N"),
    "two values at the end": b"\x80\x04NN.",
    "a mark at the end": b"\x80\x04N(.",
    "POP below a mark": message(b"(\x85t"),
    "TimedAction": message(b"N").replace(b"TimedObservation", b"TimedAction"),
    "another module": message(b"N").replace(HELPERS, b"lerobot.async_inference.evil"),
}  # fmt: skip


@pytest.mark.parametrize("place", range(len(MODULES)))
@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickles_of_stock_clients_are_read(stand_in, protocol, place):
    vectors = [stand_in.vector(name, protocol, place) for name in ("observation", "config")]
    with nothing_is_executed():
        record, config = map(read_pickle, vectors)
    assert (record.module, record.name) == (MODULES[place], "TimedObservation")
    assert (record.fields["timestamp"], record.fields["timestep"], record.fields["must_go"]) == (12.5, 0, True)
    values = record.fields["observation"]
    np.testing.assert_array_equal(values["top"], np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3))
    assert values["left_shoulder.pos"] == 0.1
    assert config.fields["lerobot_features"]["observation.images.top"]["shape"] == (48, 64, 3)
    assert config.fields["rename_map"] == {}


@pytest.mark.parametrize("protocol", range(2, 6))
def test_numbers_and_arrays_of_all_kinds_are_read(stand_in, protocol):
    found = read_pickle(stand_in.vector("odd", protocol)).fields["observation"]
    assert (found["f4"], found["i8"], found["b1"], found["big"], found["none"]) == (0.5, -7, True, 2**40, None)
    assert found["list"] == [1, (2.5,)]
    assert found["empty"].shape == (0, 3)
    np.testing.assert_array_equal(found["fortran"], np.arange(6).reshape(2, 3))
    image = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
    np.testing.assert_array_equal(found["view"], image[::2, ::2])
    np.testing.assert_array_equal(found["half"], np.arange(3, dtype=np.float16))
    assert (found["0d"].shape, found["0d"].item()) == ((), 3.0)


def test_arrays_of_numpy_before_2_are_read(stand_in):
    written = stand_in.vector("observation", 2).replace(b"numpy._core", b"numpy.core")
    assert read_pickle(written).fields["observation"]["top"].shape == (48, 64, 3)


def test_hostile_pickles_that_python_wrote_are_refused(stand_in):
    vectors = stand_in.vectors("hostile")
    assert len(vectors) == 2 * 4 * 2 * 16
    with nothing_is_executed():
        for name, written in vectors.items():
            with pytest.raises(ObservationError):
                read_pickle(written)
                pytest.fail(name)
    assert not stand_in.canary.exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_that_nobody_writes_are_refused_within_little_memory(name):
    tracemalloc.start()
    try:
        with nothing_is_executed(), pytest.raises(ObservationError, match="expected"):
            read_pickle(HOSTILE[name])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * len(HOSTILE[name]) + (4 << 20)


def test_bytes_that_are_made_again_and_again_are_counted(monkeypatch):
    monkeypatch.setattr(pickle_reader, "BYTES_LIMIT", 1 << 20)
    text = b"X" + struct.pack("<I", 1 << 18) + b"a" * (1 << 18) + b"q\x00"
    call = b"c_codecs\nencode\nh\x00" + short(b"latin1") + b"\x86R"
    with pytest.raises(ObservationError, match="encoded"):
        read_pickle(message(b"](" + text + call * 9 + b"e"))


def test_a_pickle_that_is_too_long_is_refused_unread():
    with pytest.raises(ObservationError, match=str(BYTES_LIMIT)):
        read_pickle(bytes(BYTES_LIMIT + 1))


def test_every_truncated_pickle_is_refused(stand_in):
    written = stand_in.vector("config")
    for length in range(len(written)):
        with pytest.raises(ObservationError):
            read_pickle(written[:length])


def test_ten_thousand_mutated_pickles_are_refused_or_read_as_plain_values(stand_in):
    rng = random.Random(14)
    seeds = [stand_in.vector(name, protocol) for name in ("config", "odd") for protocol in range(2, 6)]
    seeds += [vector for vector in stand_in.vectors("hostile_").values() if len(vector) < 3000]
    seeds += [value for value in HOSTILE.values() if len(value) < 3000]
    refused = 0
    tracemalloc.start()
    try:
        with nothing_is_executed():
            for _ in range(10_000):
                try:
                    check_plain(read_pickle(mutated(rng, seeds)))
                except ObservationError:
                    refused += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not stand_in.canary.exists()
    assert refused > 8_000
    assert peak < 16 << 20


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Bytes changed, removed, repeated, or taken from another pickle."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 5))):
        place, length = rng.randrange(len(data) + 1), rng.randrange(1, 40)
        other = rng.choice(seeds)
        start = rng.randrange(len(other) + 1)
        new = rng.choice(
            (b"", rng.randbytes(1), rng.randbytes(length), other[start : start + length], data[place:][:length] * 2)
        )
        data[place : place + rng.choice((0, 1, length))] = new
    return bytes(data)


def check_plain(value: object, depth: int = 0) -> None:
    assert depth < 20
    if isinstance(value, Record):
        assert value.module in MODULES
        value = value.fields
    if isinstance(value, dict):
        for key, item in value.items():
            assert type(key) is str
            check_plain(item, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_plain(item, depth + 1)
    elif isinstance(value, np.ndarray):
        assert value.dtype.kind in "biuf"
    else:
        assert value is None or type(value) in (bool, int, float, str)
