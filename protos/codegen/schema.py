"""Reads `serial_link.yaml` and checks it: the one place that knows the layout of the schema file.

Everything downstream (the Python and the C writer) works on the dataclasses below, so both languages are
written from the same facts. It does not describe behaviour; that is the firmware's and the bridge's.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "i16": 2, "f32": 4}
CRC_SIZE = 4
CONSTANTS = ("version", "max_frame", "max_joints", "max_horizon", "ring_depth", "no_joint")


@dataclass(frozen=True)
class Field:
    """One scalar of a message."""

    name: str
    type: str


@dataclass(frozen=True)
class Tail:
    """The repeated scalar that ends a message; `count` is a product of fields of the same message."""

    name: str
    type: str
    count: tuple[str, ...]


@dataclass(frozen=True)
class Message:
    """One kind of frame. The header of every frame is a message without an id."""

    name: str
    id: int | None
    fields: tuple[Field, ...]
    tail: Tail | None

    @property
    def fixed_size(self) -> int:
        """Bytes before the tail."""
        return sum(SIZES[field.type] for field in self.fields)

    @property
    def snake_name(self) -> str:
        """`CommandReply` as `command_reply`."""
        return re.sub(r"(?<!^)([A-Z])", r"_\1", self.name).lower()


@dataclass(frozen=True)
class Schema:
    """The whole link: constants, enums, bit sets, header and messages."""

    constants: dict[str, int]
    enums: dict[str, dict[str, int]]
    bits: dict[str, dict[str, int]]
    header: Message
    messages: tuple[Message, ...]
    hash: int

    @property
    def max_payload(self) -> int:
        """Bytes between header and CRC of the longest frame."""
        return self.constants["max_frame"] - self.header.fixed_size - CRC_SIZE

    def tail_capacity(self, message: Message) -> int:
        """Most values that the tail of `message` can hold in one frame."""
        if message.tail is None:
            return 0
        return (self.max_payload - message.fixed_size) // SIZES[message.tail.type]


def load_schema(path: Path) -> Schema:
    """Read and check the schema file; `ValueError` names what is wrong in it."""
    raw: dict[str, Any] = yaml.safe_load(path.read_text())
    canonical = json.dumps(raw, sort_keys=True, separators=(",", ":"))
    schema = Schema(
        constants={name: int(raw[name]) for name in CONSTANTS},
        enums=raw["enums"],
        bits=raw["bits"],
        header=Message("Header", None, _fields(raw["header"]), None),
        messages=tuple(_message(name, body) for name, body in raw["messages"].items()),
        hash=zlib.crc32(canonical.encode()),
    )
    _check(schema, path)
    return schema


def _fields(raw: list[dict[str, str]]) -> tuple[Field, ...]:
    return tuple(Field(entry["name"], entry["type"]) for entry in raw)


def _message(name: str, body: dict[str, Any]) -> Message:
    tail = body.get("tail")
    if tail is not None:
        tail = Tail(tail["name"], tail["type"], tuple(part.strip() for part in str(tail["count"]).split("*")))
    return Message(name, int(body["id"]), _fields(body["fields"]), tail)


def _check(schema: Schema, path: Path) -> None:
    ids = [message.id for message in schema.messages]
    if len(set(ids)) != len(ids):
        raise ValueError(f"{path.name}: two messages share an id")
    for message in (schema.header, *schema.messages):
        _check_message(schema, message, path)


def _check_message(schema: Schema, message: Message, path: Path) -> None:
    names = [field.name for field in message.fields]
    types = [field.type for field in message.fields] + ([message.tail.type] if message.tail else [])
    for wrong in sorted(set(types) - set(SIZES)):
        raise ValueError(f"{path.name}: {message.name} uses the type {wrong!r}, expected one of {sorted(SIZES)}")
    for factor in message.tail.count if message.tail else ():
        if factor not in names:
            raise ValueError(f"{path.name}: {message.name} counts its tail by {factor!r}, which is no field of it")
    if message.fixed_size > schema.max_payload:
        raise ValueError(f"{path.name}: {message.name} holds {message.fixed_size} bytes, {schema.max_payload} fit")
