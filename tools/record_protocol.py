"""Records one message of each kind as a version writes it, for `tests/rpc/test_protocol.py`.

    python tools/record_protocol.py 0.1.0                          # as the checkout writes them
    python tools/record_protocol.py 2026-11-24-f941d1a --commit f941d1a

The folder `tests/data/protocol/VERSION` holds `messages.json` (every message of the `.proto` files with every field
filled, of a oneof each field once) and, of the checkout, `frames.json` (every frame of the serial link). A folder that
is there is never written again: it is what a version sent.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from firmware_bridge.link.framing import encode_frame  # noqa: E402
from pi0_edge.protos import serial_link  # noqa: E402
from pi0_edge.protos.codegen.generate import compiled  # noqa: E402

FOLDER = ROOT / "tests" / "data" / "protocol"

Kind = FieldDescriptor
_VALUES = {
    Kind.CPPTYPE_STRING: lambda number: f"text {number}",
    Kind.CPPTYPE_BOOL: lambda number: True,
    Kind.CPPTYPE_FLOAT: lambda number: number + 0.25,
    Kind.CPPTYPE_DOUBLE: lambda number: number + 0.125,
    Kind.CPPTYPE_UINT32: lambda number: 2**31 + number,
    Kind.CPPTYPE_UINT64: lambda number: 2**63 + number,
    Kind.CPPTYPE_INT32: lambda number: -number,
    Kind.CPPTYPE_INT64: lambda number: -(2**40) - number,
}


def filled(kind: Descriptor, choice: int, depth: int = 0) -> Message:
    """A message with every field; of each oneof the field number `choice`, counted from 0."""
    message = message_factory.GetMessageClass(kind)()
    for field in kind.fields:
        oneof = field.containing_oneof
        if oneof is not None and field is not oneof.fields[choice % len(oneof.fields)]:
            continue
        if field.is_repeated:
            values = [_value(field, choice, depth), _value(field, choice + 1, depth)]
            getattr(message, field.name).extend(values)
        elif field.cpp_type == Kind.CPPTYPE_MESSAGE:
            getattr(message, field.name).CopyFrom(_value(field, choice, depth))
        else:
            setattr(message, field.name, _value(field, choice, depth))
    return message


def _value(field: Any, choice: int, depth: int) -> Any:
    number = field.number + 100 * depth + choice
    if field.cpp_type == Kind.CPPTYPE_MESSAGE:
        return filled(field.message_type, choice, depth + 1)
    if field.cpp_type == Kind.CPPTYPE_ENUM:
        return field.enum_type.values[-1 - choice % 2].number
    return bytes([number % 256] * 3) if field.type == Kind.TYPE_BYTES else _VALUES[field.cpp_type](number)


def meaning(message: Message) -> dict[str, Any]:
    """What a message says, by the names of its fields and values."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def record_messages(files: descriptor_pb2.FileDescriptorSet) -> Iterator[dict[str, Any]]:
    """Each message of some `.proto` files: its name, its bytes and what they mean."""
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    for file in files.file:
        for written in file.message_type:
            kind = pool.FindMessageTypeByName(f"{file.package}.{written.name}")
            for choice in range(max([len(oneof.fields) for oneof in kind.oneofs], default=1)):
                message = filled(kind, choice)
                data = message.SerializeToString(deterministic=True)
                yield {"message": kind.full_name, "bytes": data.hex(), "means": meaning(message)}


def record_frames() -> Iterator[dict[str, Any]]:
    """Each frame of the serial link: its message, its bytes with framing, and its fields."""
    for number, (code, kind) in enumerate(sorted(serial_link.MESSAGES.items())):
        message = _filled_frame(kind)
        frame = encode_frame(code, 1000 + number, message.pack())
        yield {
            "message": kind.__name__,
            "sequence": 1000 + number,
            "frame": frame.hex(),
            "means": frame_meaning(message),
        }


def _filled_frame(kind: Any) -> Any:
    """A message of the serial link; those with values per joint say it of two joints, in up to two rows."""
    given: dict[str, Any] = {field.name: 7 + place for place, field in enumerate(fields(kind))}
    sizes = {name: 2 for name in ("joints", "steps", "rows") if name in given}
    for name in ("values", "executed"):
        if name in given:
            given |= {**sizes, name: tuple(range(1, 1 + 2 ** len(sizes)))}
    return kind(**given)


def frame_meaning(message: Any) -> dict[str, Any]:
    """The fields of a message of the serial link."""
    return {field.name: json.loads(json.dumps(getattr(message, field.name))) for field in fields(message)}


def proto_files(commit: str, folder: Path) -> tuple[str, ...]:
    """Writes the `.proto` files of a commit; returns their paths as they import each other."""
    argv = ["git", "-C", str(ROOT), "ls-tree", "-r", "--name-only", commit]
    listed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    names = [name for name in listed if name.endswith(".proto")]
    shown = {
        name: subprocess.run(
            ["git", "-C", str(ROOT), "show", f"{commit}:{name}"], capture_output=True, text=True, check=True
        ).stdout
        for name in names
    }
    inside = any("pi0_edge/protos" in text for text in shown.values())
    for name, text in shown.items():
        path = folder / ("pi0_edge" if inside else ".") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    order = sorted(folder.rglob("*.proto"), key=lambda path: "policy bridge recording".find(path.stem))
    return tuple(path.relative_to(folder).as_posix() for path in order)


def main() -> int:
    """Writes the folder of a version; 1 where it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="name of the folder")
    parser.add_argument("--commit", help="whose .proto files; those of the checkout where it is left out")
    options = parser.parse_args()
    folder = FOLDER / options.version
    if folder.exists():
        print(f"{folder.relative_to(ROOT)} is there: it is what that version sent", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        files = compiled()
        if options.commit is not None:
            files = compiled(Path(temporary), proto_files(options.commit, Path(temporary)))
        messages = list(record_messages(files))
    folder.mkdir(parents=True)
    (folder / "messages.json").write_text(json.dumps(messages, indent=1) + "\n")
    if options.commit is None:
        frames = {
            "version": serial_link.VERSION,
            "schema_hash": serial_link.SCHEMA_HASH,
            "frames": list(record_frames()),
        }
        (folder / "frames.json").write_text(json.dumps(frames, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
