"""Writes `protos/serial_link.py`: one frozen dataclass per message, enums, bit sets and constants."""

from __future__ import annotations

from pi0_edge.protos.codegen.schema import CRC_SIZE, Message, Schema

STRUCT_CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i16": "h", "f32": "f"}
LINE_LENGTH = 120

PREAMBLE = '''"""Messages of the serial link. Do not edit.

Generated from `serial_link.yaml` by `python -m pi0_edge.protos.codegen.generate`.

`pack` returns the payload of a frame (no header, no CRC, no COBS), `unpack` reads one back. Little endian, packed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import ClassVar

'''

HELPERS = """

def _pack(name: str, layout: str, values: tuple[float, ...]) -> bytes:
    try:
        return struct.pack(layout, *values)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"{name}: {error}; found {values}") from error


def _unpack(name: str, layout: str, payload: bytes) -> tuple[int, ...]:
    size = struct.calcsize(layout)
    if len(payload) != size:
        raise ValueError(f"{name}: payload of {len(payload)} bytes, expected {size}")
    return struct.unpack(layout, payload)


def _split(name: str, layout: str, payload: bytes) -> tuple[tuple[int, ...], bytes]:
    size = struct.calcsize(layout)
    if len(payload) < size:
        raise ValueError(f"{name}: payload of {len(payload)} bytes, expected at least {size}")
    return struct.unpack_from(layout, payload), payload[size:]


def _check_count(name: str, field: str, found: int, expected: int, capacity: int) -> None:
    if found != expected:
        raise ValueError(f"{name}: {field} holds {found} values, expected {expected}")
    if found > capacity:
        raise ValueError(f"{name}: {field} holds {found} values, at most {capacity} fit in one frame")
"""


def write_python(schema: Schema) -> str:
    """Return the text of `protos/serial_link.py`."""
    parts = [PREAMBLE + _constants(schema), HELPERS]
    parts += [_enum(name, "IntEnum", values) for name, values in schema.enums.items()]
    parts += [_enum(name, "IntFlag", {k: 1 << v for k, v in values.items()}) for name, values in schema.bits.items()]
    parts += [_message(schema, message) for message in (schema.header, *schema.messages)]
    parts.append(_registry(schema))
    return "".join(parts)


def _constants(schema: Schema) -> str:
    values = {name.upper(): str(value) for name, value in schema.constants.items()}
    values["HEADER_SIZE"] = str(schema.header.fixed_size)
    values["CRC_SIZE"] = str(CRC_SIZE)
    values["MAX_PAYLOAD"] = str(schema.max_payload)
    values["SCHEMA_HASH"] = f"0x{schema.hash:08X}"
    return "".join(f"{name} = {value}\n" for name, value in values.items())


def _enum(name: str, base: str, values: dict[str, int]) -> str:
    members = "".join(f"    {key} = {value}\n" for key, value in values.items())
    return f'\n\nclass {name}({base}):\n    """`{name}` of the schema."""\n\n{members}'


def _message(schema: Schema, message: Message) -> str:
    layout = "<" + "".join(STRUCT_CODES[field.type] for field in message.fields)
    lines = ["", "", "@dataclass(frozen=True)", f"class {message.name}:", f'    """{_title(message)}"""', ""]
    lines += [f"    ID: ClassVar[int] = 0x{message.id:02X}"] if message.id is not None else []
    lines += [f'    LAYOUT: ClassVar[str] = "{layout}"']
    if message.tail:
        lines.append(f"    CAPACITY: ClassVar[int] = {schema.tail_capacity(message)}")
    lines += ["", *(f"    {field.name}: {_scalar(field.type)}" for field in message.fields)]
    lines += _methods_with_tail(message) if message.tail else _methods(message)
    return "\n".join(lines) + "\n"


def _title(message: Message) -> str:
    if message.id is None:
        return "What every frame begins with."
    sender, receiver = ("microcontroller", "host") if message.id & 0x80 else ("host", "microcontroller")
    return f"From {sender} to {receiver}."


def _scalar(kind: str) -> str:
    return "float" if kind == "f32" else "int"


def _own_fields(message: Message) -> list[str]:
    names = [f"self.{field.name}," for field in message.fields]
    line = f"        values = ({' '.join(names) if len(names) == 1 else ' '.join(names).rstrip(',')})"
    if len(line) <= LINE_LENGTH:
        return [line]
    return ["        values = (", *(f"            {name}" for name in names), "        )"]


def _methods(message: Message) -> list[str]:
    return [
        "",
        "    def pack(self) -> bytes:",
        '        """Return the payload; `ValueError` where a field does not fit its type."""',
        *_own_fields(message),
        f'        return _pack("{message.name}", self.LAYOUT, values)',
        "",
        "    @classmethod",
        f"    def unpack(cls, payload: bytes) -> {message.name}:",
        '        """Read a payload; `ValueError` where its size is wrong."""',
        f'        return cls(*_unpack("{message.name}", cls.LAYOUT, payload))',
    ]


def _methods_with_tail(message: Message) -> list[str]:
    tail = message.tail
    if tail is None:
        return []
    names = [field.name for field in message.fields]
    count = " * ".join(f"self.{factor}" for factor in tail.count)
    position = " * ".join(f"head[{names.index(factor)}]" for factor in tail.count)
    kind, code, name = _scalar(tail.type), STRUCT_CODES[tail.type], message.name
    return [
        f"    {tail.name}: tuple[{kind}, ...]",
        "",
        "    def pack(self) -> bytes:",
        '        """Return the payload; `ValueError` where a field does not fit or the tail has the wrong length."""',
        f'        _check_count("{name}", "{tail.name}", len(self.{tail.name}), {count}, self.CAPACITY)',
        *_own_fields(message),
        f'        tail = _pack("{name}", f"<{{len(self.{tail.name})}}{code}", self.{tail.name})',
        f'        return _pack("{name}", self.LAYOUT, values) + tail',
        "",
        "    @classmethod",
        f"    def unpack(cls, payload: bytes) -> {name}:",
        '        """Read a payload; `ValueError` where its size does not agree with its own counts."""',
        f'        head, body = _split("{name}", cls.LAYOUT, payload)',
        f"        count = {position}",
        f'        tail = _unpack("{name}.{tail.name}", f"<{{count}}{code}", body)',
        f'        _check_count("{name}", "{tail.name}", len(tail), count, cls.CAPACITY)',
        f"        return cls(*head, {tail.name}=tail)",
    ]


def _registry(schema: Schema) -> str:
    names = [message.name for message in schema.messages]
    union = "(\n    " + "\n    | ".join(names) + "\n)"
    entries = "".join(f"    {name}.ID: {name},\n" for name in names)
    return f"\n\nMessage = {union}\n\nMESSAGES: dict[int, type[Message]] = {{\n{entries}}}\n"
