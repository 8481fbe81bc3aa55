"""The package `openvino`, and the devices that it finds in this machine."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType

from pi0_edge.errors import EngineError, MissingDependencyError


@dataclass(frozen=True)
class Device:
    """Something that OpenVINO computes on.

    Attributes:
        name: As OpenVINO calls it: `CPU`, `GPU`, `GPU.1`, `NPU`.
        description: Its full name, from its maker.
        capabilities: Number formats that it computes in, such as `FP32`, `BF16`, `FP16` and `INT8`.
    """

    name: str
    description: str
    capabilities: frozenset[str]


def load_openvino() -> ModuleType:
    """The module `openvino`.

    Raises:
        MissingDependencyError: If it is not installed.
        EngineError: If it is installed and does not load.
    """
    found = importlib.util.find_spec("openvino")
    if found is None or found.origin is None:  # a folder of this name on the path is no package
        raise MissingDependencyError(
            "the OpenVINO engine needs the package openvino: pip install 'pi0-edge[openvino]'; or use engine=\"cpu\""
        )
    try:
        return importlib.import_module("openvino")
    except Exception as error:  # missing libraries come as every kind of error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EngineError(
            f"the package openvino is installed and does not load ({reason}): pip install --force-reinstall openvino; "
            'or use engine="cpu"'
        ) from error


def find_devices(core: object) -> list[Device]:
    """Every device of this machine.

    Args:
        core: An `openvino.Core`.
    """
    names: list[str] = core.available_devices  # pyright: ignore[reportAttributeAccessIssue]
    return [_describe(core, name) for name in names]


def find_device(core: object, name: str) -> Device:
    """The device called `name`; `GPU` is the first of several.

    Args:
        core: An `openvino.Core`.
        name: As OpenVINO calls it.

    Raises:
        EngineError: If there is no such device, with those that there are.
    """
    devices = find_devices(core)
    fits = [device for device in devices if device.name in (name, f"{name}.0")]
    if not fits:
        there = ", ".join(f"{device.name} ({device.description})" for device in devices) or "none"
        advice = "" if name == "CPU" else f"; a {name.partition('.')[0]} needs its driver, see docs/openvino.md"
        raise EngineError(f"OpenVINO finds no device {name} in this machine, only {there}{advice}")
    return fits[0]


def _describe(core: object, name: str) -> Device:
    ask = core.get_property  # pyright: ignore[reportAttributeAccessIssue]
    return Device(name, str(ask(name, "FULL_DEVICE_NAME")), frozenset(ask(name, "OPTIMIZATION_CAPABILITIES")))
