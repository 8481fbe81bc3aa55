"""The promise of the gRPC interface: what one version of `pi0_edge.v1` sent, every later one reads as it was meant.

`protos/interface.lock.json` holds the promised interface: every message, field, enum value and method by its number or
name. `python -m pi0_edge.protos.codegen.generate` adds what is new to it and refuses whatever would change the meaning
of bytes that exist: a field or value that is renumbered, renamed, retyped, reused, or removed without being reserved; a
method that is gone or takes something else. What is reserved stays reserved.

Of a descriptor only what a peer can notice is kept: comments, order and options of the generated code are free.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

LOCK_FILE = "protos/interface.lock.json"

Interface = dict[str, dict[str, Any]]
"""`messages`, `enums` and `services`, each by full name."""

_PROMISE = "programs that run on robots send it"


def interface_of(files: Iterable[descriptor_pb2.FileDescriptorProto]) -> Interface:
    """What peers can notice of some `.proto` files.

    Args:
        files: Their descriptors.
    """
    found: Interface = {"messages": {}, "enums": {}, "services": {}}
    for file in files:
        for message in file.message_type:
            _add_message(found, file.package, message)
        for enum in file.enum_type:
            _add_enum(found, file.package, enum)
        for service in file.service:
            found["services"][f"{file.package}.{service.name}"] = {
                method.name: (
                    f"{'stream ' * method.client_streaming}{method.input_type.lstrip('.')} -> "
                    f"{'stream ' * method.server_streaming}{method.output_type.lstrip('.')}"
                )
                for method in service.method
            }
    return found


def _add_message(found: Interface, scope: str, message: descriptor_pb2.DescriptorProto) -> None:
    name = f"{scope}.{message.name}"
    found["messages"][name] = {
        "fields": {str(field.number): _field(message, field) for field in message.field},
        **_reserved(message.reserved_name, (range(part.start, part.end) for part in message.reserved_range)),
    }
    for nested in message.nested_type:
        _add_message(found, name, nested)
    for enum in message.enum_type:
        _add_enum(found, name, enum)


def _add_enum(found: Interface, scope: str, enum: descriptor_pb2.EnumDescriptorProto) -> None:
    found["enums"][f"{scope}.{enum.name}"] = {
        "values": {str(value.number): value.name for value in enum.value},
        **_reserved(enum.reserved_name, (range(part.start, part.end + 1) for part in enum.reserved_range)),
    }


def _field(message: descriptor_pb2.DescriptorProto, field: descriptor_pb2.FieldDescriptorProto) -> dict[str, str]:
    label = "repeated " if field.label == field.LABEL_REPEATED else "optional " if field.proto3_optional else ""
    kind = field.type_name.lstrip(".") or field.Type.Name(field.type).removeprefix("TYPE_").lower()
    described = {"name": field.name, "type": label + kind}
    if field.HasField("oneof_index") and not field.proto3_optional:
        described["oneof"] = message.oneof_decl[field.oneof_index].name
    return described


def _reserved(names: Iterable[str], ranges: Iterator[range]) -> dict[str, list[Any]]:
    return {"reserved_names": sorted(names), "reserved": sorted([part.start, part.stop - 1] for part in ranges)}


def broken_promises(promised: Interface, present: Interface) -> list[str]:
    """What would change the meaning of bytes that exist, each with what to do instead; empty where nothing does.

    Args:
        promised: The interface that was published.
        present: That of the `.proto` files now.
    """
    found: list[str] = []
    for kind in ("messages", "enums", "services"):
        for name, old in promised[kind].items():
            new = present[kind].get(name)
            if new is None:
                found.append(f"{name} is gone, but {_PROMISE}; put it back, or begin a package pi0_edge.v2")
            elif kind == "services":
                found += _broken_methods(name, old, new)
            else:
                found += _broken_numbers(name, "fields" if kind == "messages" else "values", old, new)
    return found


def _broken_methods(service: str, old: dict[str, str], new: dict[str, str]) -> Iterator[str]:
    for name, signature in old.items():
        if name not in new:
            yield f"the method {service}/{name} is gone, but programs call it; put it back, even if it only refuses"
        elif new[name] != signature:
            yield (
                f"the method {service}/{name} was ({signature}) and is ({new[name]}); put it back and add a method "
                "with another name"
            )


def _broken_numbers(owner: str, kind: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    word = kind.removesuffix("s")
    places = {_name(entry): number for number, entry in new[kind].items()}
    for number, entry in old[kind].items():
        name, here = _name(entry), new[kind].get(number)
        if here == entry:
            continue
        if here is None and name in places:
            yield f"the {word} {owner}.{name} had the number {number} and has {places[name]}; give it {number} again"
        elif here is None:
            if not (_is_reserved(int(number), new) and name in new["reserved_names"]):
                yield (
                    f"the {word} {owner}.{name} = {number} is gone and not reserved, but {_PROMISE}; put it back, or "
                    f'write `reserved {number};` and `reserved "{name}";`'
                )
        elif _name(here) != name:
            yield (
                f"the number {number} of {owner} was {_told(entry)} and is {_told(here)}; give the new {word} a number "
                "that was never used, and keep or reserve the old one"
            )
        else:
            yield (
                f"the {word} {owner}.{name} = {number} was {_told(entry)} and is {_told(here)}; put it back and add a "
                "field with another name and number"
            )
    for low, high in old["reserved"]:
        lost = [number for number in (low, high, *map(int, new[kind])) if low <= number <= high]
        lost = [number for number in lost if not _is_reserved(number, new)]
        if lost:
            yield f"the number {lost[0]} of {owner} was reserved and is not; reserve it, for old bytes still have it"
    for name in old["reserved_names"]:
        if name not in new["reserved_names"]:
            yield f"the name {name} of {owner} was reserved and is not; reserve it, for old text still has it"


def _is_reserved(number: int, entry: dict[str, Any]) -> bool:
    return any(low <= number <= high for low, high in entry["reserved"])


def _name(entry: dict[str, str] | str) -> str:
    return entry if isinstance(entry, str) else entry["name"]


def _told(entry: dict[str, str] | str) -> str:
    if isinstance(entry, str):
        return entry
    return f"{entry['type']} {entry['name']}" + (f" in oneof {entry['oneof']}" if "oneof" in entry else "")


def read_lock(root: Path) -> Interface:
    """The promised interface; empty where there is no lock yet.

    Args:
        root: Of the repository.
    """
    path = root / LOCK_FILE
    return json.loads(path.read_text()) if path.exists() else {"messages": {}, "enums": {}, "services": {}}


def lock_text(present: Interface) -> str:
    """The text of the lock file."""
    return json.dumps(present, indent=1, sort_keys=True) + "\n"
