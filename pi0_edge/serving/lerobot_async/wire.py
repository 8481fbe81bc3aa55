"""The protobuf messages and calls of LeRobot's `transport.AsyncInference`, the same from LeRobot 0.3.3 to 0.6.

They live in a pool of their own: where LeRobot is imported too, its generated code has messages of the same names.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "transport.AsyncInference"

PIECE_LIMIT = 4 << 20
"""Bytes of one message; the stock client sends pieces of 2 MiB and takes at most 4 MB."""

BEGIN, MIDDLE, END = 1, 2, 3
"""Which piece of a payload a message is."""

_FIELD = descriptor_pb2.FieldDescriptorProto


def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="transport/services.proto", package="transport", syntax="proto3")
    states = file.enum_type.add(name="TransferState")
    for number, name in enumerate(("UNKNOWN", "BEGIN", "MIDDLE", "END")):
        states.value.add(name=f"TRANSFER_{name}", number=number)
    file.message_type.add(name="Empty")
    for name in ("PolicySetup", "Actions"):
        _add_data(file.message_type.add(name=name), 1)
    observation = file.message_type.add(name="Observation")
    observation.field.add(
        name="transfer_state",
        number=1,
        label=_FIELD.LABEL_OPTIONAL,
        type=_FIELD.TYPE_ENUM,
        type_name=".transport.TransferState",
    )
    _add_data(observation, 2)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = [message.name for message in file.message_type]
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}")) for name in names
    }


def _add_data(message: descriptor_pb2.DescriptorProto, number: int) -> None:
    message.field.add(name="data", number=number, label=_FIELD.LABEL_OPTIONAL, type=_FIELD.TYPE_BYTES)


_MESSAGES = _messages()
Empty: Any = _MESSAGES["Empty"]
PolicySetup: Any = _MESSAGES["PolicySetup"]
Observation: Any = _MESSAGES["Observation"]
Actions: Any = _MESSAGES["Actions"]
