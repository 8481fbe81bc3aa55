"""LeRobot's two requests as types of ours; what a peer sends is checked here as far as its form goes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pi0_edge.errors import ObservationError
from pi0_edge.serving.lerobot_async.pickle_reader import Record, read_pickle

CONFIG_BYTES = 1 << 20
"""Bytes of one RemotePolicyConfig; a stock one takes about a thousand."""

_MOST_ACTIONS = 10_000
_LARGEST_TIMESTEP = 1 << 53


@dataclass(frozen=True)
class RemotePolicyConfig:
    """What a client asks for.

    Attributes:
        module: Module that the client knows its message classes from; replies name it.
        policy_type: Name of a kind of policy; nothing here depends on it.
        pretrained_name_or_path: What the stock server would load; never loaded here.
        lerobot_features: What the client's observations hold, by the name of a dataset's feature.
        actions_per_chunk: Most actions of a reply.
        rename_map: Name of a feature -> the name that the policy knows it by.
    """

    module: str
    policy_type: str
    pretrained_name_or_path: str
    lerobot_features: dict[str, dict[str, Any]]
    actions_per_chunk: int
    rename_map: dict[str, str]


@dataclass(frozen=True)
class TimedObservation:
    """One moment of the client's robot.

    Attributes:
        timestamp: When it was taken, s, on the client's clock.
        timestep: Number of the last action that was executed; 0 before the first.
        observation: Value by name: joints as numbers, cameras as arrays, the prompt as `task`.
        must_go: Whether it has to be answered: the client has no action left.
    """

    timestamp: float
    timestep: int
    observation: dict[str, Any]
    must_go: bool


def read_config(data: bytes) -> RemotePolicyConfig:
    """The RemotePolicyConfig in a request.

    Raises:
        ObservationError: If it is another message, or a value has the wrong type or size.
    """
    if len(data) > CONFIG_BYTES:
        raise ObservationError(f"RemotePolicyConfig has {len(data)} bytes, expected at most {CONFIG_BYTES}")
    record = _record(data, "RemotePolicyConfig")
    features = _field(record, "lerobot_features", dict)
    if not all(isinstance(feature, dict) for feature in features.values()):
        raise _wrong(record, "lerobot_features", "maps by the name of a feature")
    renamed = record.fields.get("rename_map", {})  # from LeRobot 0.4.0 on
    if not isinstance(renamed, dict) or not all(isinstance(name, str) for name in renamed.values()):
        raise _wrong(record, "rename_map", "names by name")
    actions = _field(record, "actions_per_chunk", int)
    if not 1 <= actions <= _MOST_ACTIONS:
        raise _wrong(record, "actions_per_chunk", f"1 to {_MOST_ACTIONS}")
    return RemotePolicyConfig(
        module=record.module,
        policy_type=_field(record, "policy_type", str),
        pretrained_name_or_path=_field(record, "pretrained_name_or_path", str),
        lerobot_features=features,
        actions_per_chunk=actions,
        rename_map=renamed,
    )


def read_observation(data: bytes) -> TimedObservation:
    """The TimedObservation in a request.

    Raises:
        ObservationError: If it is another message, or a value has the wrong type or size.
    """
    record = _record(data, "TimedObservation")
    timestamp = _field(record, "timestamp", float)
    if not math.isfinite(timestamp):
        raise _wrong(record, "timestamp", "a finite number of seconds")
    timestep = _field(record, "timestep", int)
    if not 0 <= timestep <= _LARGEST_TIMESTEP:
        raise _wrong(record, "timestep", f"0 to {_LARGEST_TIMESTEP}")
    must_go = record.fields.get("must_go", False)
    if type(must_go) is not bool:
        raise _wrong(record, "must_go", "True or False")
    return TimedObservation(timestamp, timestep, _field(record, "observation", dict), must_go)


def _record(data: bytes, name: str) -> Record:
    record = read_pickle(data)
    if record.name != name:
        raise ObservationError(f"the message is a {record.name}, expected a {name}")
    return record


def _field(record: Record, name: str, kind: type) -> Any:
    value = record.fields.get(name)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise _wrong(record, name, f"a value of type {kind.__name__}")
    return value


def _wrong(record: Record, name: str, expected: str) -> ObservationError:
    value = record.fields.get(name)
    found = repr(value)[:80] if value is None or type(value) in (bool, int, float, str) else f"a {type(value).__name__}"
    return ObservationError(f"{record.name}.{name} is {found}, expected {expected}")
