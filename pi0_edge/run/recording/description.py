"""What a recording says of its run before anything happens: robot, policy, cameras, host.

It stands first in the file, so that a recording that was cut off still says what it is of: one metadata record of short
texts, which every viewer shows, and attachments for the files behind them.
"""

from __future__ import annotations

import json
import platform
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import yaml
from google.protobuf import json_format

from firmware_bridge.firmware.joint_table import joint_table
from firmware_bridge.splice import HoldSwap
from pi0_edge.errors import ConfigError, RecordingError
from pi0_edge.json_files import parse_json_object
from pi0_edge.protos.policy_pb2 import PolicyMetadata
from pi0_edge.robots import Robot, parse_robot

METADATA = "pi0_edge.run"
"""Name of the metadata record."""

FORMAT = 1
"""Version of the format; a reader refuses a later one."""

_ROBOT, _POLICY, _CAMERAS, _CALIBRATION = "robot.yaml", "policy.json", "cameras.json", "calibration.txt"
_PACKAGES = ("pi0-edge", "numpy", "torch", "pillow", "protobuf", "mcap")


@dataclass(frozen=True)
class RunDescription:
    """What a run is made of.

    Attributes:
        robot: The robot that the bridge drives; the commands of each tick are computed again from its limits.
        policy: What the policy says of itself: engine, scheme, hash of checkpoint and bundle, overrides.
        policy_source: Where it was loaded from or is served: folder or address.
        threads: CPU threads of the network, where it runs in the robot's process; else None.
        splice: How its chunks continue the plan, see `firmware_bridge.splice.client_splice`.
        bridge_splice: How the bridge enters them, see `firmware_bridge.splice.chunk_splice`.
        image_encoding: How images reach the policy: `raw`, or lossy in words.
        cameras: Settings of each camera.
        calibration: Text of the calibration file; empty where there is none.
        overrides: Rules of the run that its user overrode by name.
        host: Name, processor and package versions of the computer; this one unless read from a file.
        wall_minus_monotonic_ns: What to add to a time of the host's monotonic clock to get nanoseconds since 1970.
    """

    robot: Robot
    policy: PolicyMetadata
    policy_source: str = ""
    threads: int | None = None
    splice: str = HoldSwap.name
    bridge_splice: str = HoldSwap.name
    image_encoding: str = "raw"
    cameras: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    calibration: str = ""
    overrides: tuple[str, ...] = ()
    host: Mapping[str, str] = field(default_factory=lambda: this_host())
    wall_minus_monotonic_ns: int = 0

    @property
    def joint_names(self) -> tuple[str, ...]:
        """The joints, in the order of states and actions."""
        return tuple(self.robot.action_labels)

    def metadata(self) -> dict[str, str]:
        """The short texts."""
        limits = "" if self.robot.why_not_playable else f"{joint_table(self.robot).limits_hash:#010x}"
        return {
            "format": str(FORMAT),
            "robot": self.robot.name,
            "limits_hash": limits,
            "joints": " ".join(self.joint_names),
            "engine": self.policy.engine,
            "scheme": self.policy.scheme,
            "checkpoint_sha256": self.policy.checkpoint_sha256,
            "bundle_sha256": self.policy.bundle_sha256,
            "policy_source": self.policy_source,
            "threads": "" if self.threads is None else str(self.threads),
            "splice": self.splice,
            "bridge_splice": self.bridge_splice,
            "image_encoding": self.image_encoding,
            "overrides": " ".join(self.overrides),
            "wall_minus_monotonic_ns": str(self.wall_minus_monotonic_ns),
            **{f"host.{name}": text for name, text in self.host.items()},
        }

    def attachments(self) -> dict[str, bytes]:
        """The files: robot with all that its file refers to, policy, cameras, calibration."""
        texts = {
            _ROBOT: yaml.safe_dump(_plain(asdict(self.robot)), sort_keys=False),
            _POLICY: json_format.MessageToJson(self.policy, preserving_proto_field_name=True),
            _CAMERAS: json.dumps({name: dict(settings) for name, settings in self.cameras.items()}, indent=2),
            _CALIBRATION: self.calibration,
        }
        return {name: text.encode() for name, text in texts.items() if text}

    @classmethod
    def read(cls, metadata: Mapping[str, str], attachments: Mapping[str, bytes], origin: str) -> RunDescription:
        """The inverse of `metadata` and `attachments`.

        Args:
            metadata: The short texts.
            attachments: The files, by name.
            origin: The recording, for error messages.

        Raises:
            RecordingError: If something is missing, damaged, or of a later format.
        """
        if not metadata.get("format", "").isdigit():
            raise RecordingError(f"{origin} has no metadata record {METADATA}; expected a recording of `pi0-edge run`")
        if int(metadata["format"]) > FORMAT:
            raise RecordingError(
                f"{origin} has format {metadata['format']}; this version reads up to {FORMAT}: update pi0-edge"
            )
        try:
            robot = parse_robot(yaml.safe_load(attachments[_ROBOT]), f"the robot in {origin}")
            policy = json_format.Parse(attachments[_POLICY], PolicyMetadata())
            cameras = parse_json_object(attachments[_CAMERAS], f"{_CAMERAS} in {origin}", RecordingError)
            return cls(
                robot=robot,
                policy=policy,
                policy_source=metadata["policy_source"],
                threads=int(metadata["threads"]) if metadata["threads"] else None,
                splice=metadata["splice"],
                bridge_splice=metadata["bridge_splice"],
                image_encoding=metadata["image_encoding"],
                cameras=cameras,
                calibration=attachments.get(_CALIBRATION, b"").decode(),
                overrides=tuple(metadata["overrides"].split()),
                host={name[5:]: text for name, text in metadata.items() if name.startswith("host.")},
                wall_minus_monotonic_ns=int(metadata["wall_minus_monotonic_ns"]),
            )
        except (KeyError, ValueError, AttributeError, yaml.YAMLError, json_format.ParseError, ConfigError) as error:
            raise RecordingError(
                f"the description of the run in {origin} is damaged ({error}); see its bytes"
            ) from error


def this_host() -> dict[str, str]:
    """What is different on another computer and can change the last bit of a result."""
    found = {"name": socket.gethostname(), "system": platform.platform(), "processor": _processor()}
    found["python"] = platform.python_version()
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            named = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
            return next(named, platform.machine())
    except OSError:
        return platform.machine()


def _plain(value: Any) -> Any:
    """The value with lists in place of tuples, which YAML has no word for."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
