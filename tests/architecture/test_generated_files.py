"""The generated interface files agree with their sources, and the packed messages keep their promises."""

from __future__ import annotations

import re
import shutil
import struct
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi0_edge.protos import serial_link
from pi0_edge.protos.codegen import generate
from pi0_edge.protos.codegen.schema import load_schema

SCALARS = {
    "B": st.integers(0, 2**8 - 1),
    "H": st.integers(0, 2**16 - 1),
    "I": st.integers(0, 2**32 - 1),
    "Q": st.integers(0, 2**64 - 1),
}


def test_generated_files_are_current() -> None:
    texts = {**generate.generate_serial_link(), **generate.generate_grpc()}
    assert len(texts) == 10
    assert generate.stale_files(texts) == [], "run: python -m pi0_edge.protos.codegen.generate"


def test_stubs_import_under_the_oldest_permitted_libraries() -> None:
    project = (generate.ROOT / "pyproject.toml").read_text()
    for library, stamp, file in (
        ("grpcio", r"GRPC_GENERATED_VERSION = '(\d+)\.(\d+)", "protos/bridge_pb2_grpc.py"),
        ("protobuf", r"# Protobuf Python Version: (\d+)\.(\d+)", "protos/bridge_pb2.py"),
    ):
        floors = re.findall(rf'"{library}>=(\d+)\.(\d+)', project)
        made_with = re.findall(stamp, (generate.ROOT / file).read_text())
        assert floors and made_with, library
        assert all(tuple(map(int, floor)) >= tuple(map(int, made_with[0])) for floor in floors), library


def test_an_edited_file_is_noticed() -> None:
    texts = generate.generate_serial_link()
    texts[generate.PYTHON_FILE] += "# edited\n"
    assert generate.stale_files(texts) == [generate.PYTHON_FILE]


def test_the_schema_hash_ignores_comments_and_notices_fields(tmp_path: Path) -> None:
    source = generate.ROOT / generate.SCHEMA_FILE
    copy = tmp_path / "schema.yaml"
    shutil.copy(source, copy)
    copy.write_text("# a comment\n" + copy.read_text())
    assert load_schema(copy).hash == serial_link.SCHEMA_HASH
    copy.write_text(copy.read_text().replace("ping_id", "ping_number", 1))
    assert load_schema(copy).hash != serial_link.SCHEMA_HASH


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("type: u16}", "type: u24}", "u24"),
        ("count: joints", "count: joint", "joint"),
        ("id: 0x82", "id: 0x81", "share an id"),
        ("max_frame: 240", "max_frame: 30", "fit"),
    ],
)
def test_a_wrong_schema_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    copy = tmp_path / "schema.yaml"
    copy.write_text((generate.ROOT / generate.SCHEMA_FILE).read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        load_schema(copy)


@pytest.mark.parametrize("message", [m for m in serial_link.MESSAGES.values() if not hasattr(m, "CAPACITY")])
@given(data=st.data())
def test_fixed_messages_round_trip(message: Any, data: st.DataObject) -> None:
    values = [data.draw(SCALARS[code]) for code in message.LAYOUT[1:]]
    made = message(*values)
    payload = made.pack()
    assert len(payload) == struct.calcsize(message.LAYOUT) <= serial_link.MAX_PAYLOAD
    assert message.unpack(payload) == made
    for wrong in (payload[:-1], payload + b"\0"):
        with pytest.raises(ValueError, match=message.__name__):
            message.unpack(wrong)


def test_a_field_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="Ping"):
        serial_link.Ping(ping_id=2**32, host_time_us=0).pack()


@given(steps=st.integers(0, 7), joints=st.integers(0, 14), data=st.data())
def test_fragments_round_trip(steps: int, joints: int, data: st.DataObject) -> None:
    count = steps * joints
    values = tuple(data.draw(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=count, max_size=count)))
    made = serial_link.Fragment(7, 2**32 - 1, 2**32 - 2, 50, 1, 8, 7, steps, joints, values)
    assert serial_link.Fragment.unpack(made.pack()) == made
    with pytest.raises(ValueError, match="expected"):
        serial_link.Fragment.unpack(made.pack() + b"\0\0")


def test_a_tail_must_agree_with_its_counts_and_fit() -> None:
    with pytest.raises(ValueError, match=r"3 values, expected 4"):
        serial_link.Fragment(1, 1, 0, 2, 0, 1, 0, 2, 2, (1, 2, 3)).pack()
    with pytest.raises(ValueError, match="at most"):
        serial_link.Fragment(1, 1, 0, 8, 0, 1, 0, 8, 14, (0,) * 112).pack()


def test_registry_lists_every_message_once() -> None:
    assert len(serial_link.MESSAGES) == len({m.__name__ for m in serial_link.MESSAGES.values()}) == 12
    assert all(fields(message) for message in serial_link.MESSAGES.values())
