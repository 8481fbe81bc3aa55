"""The package `openvino`, and the devices that it finds in this machine."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pi0_edge.errors import EngineError, MissingDependencyError


@dataclass(frozen=True)
class Device:
    """Something that OpenVINO computes on.

    Attributes:
        name: As OpenVINO calls it: `CPU`, `GPU`, `GPU.1`, `NPU`.
        description: Its full name, from its maker.
        capabilities: Number formats that it computes in, such as `FP32`, `BF16`, `FP16` and `INT8`.
        properties: Names of what it can be asked and told, such as `INFERENCE_PRECISION_HINT`.
    """

    name: str
    description: str
    capabilities: frozenset[str]
    properties: frozenset[str] = frozenset()


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


def open_core(openvino: ModuleType) -> Any:
    """An `openvino.Core`, with which everything starts.

    Args:
        openvino: The module.

    Raises:
        EngineError: If OpenVINO has none here.
    """
    try:
        return openvino.Core()
    except RuntimeError as error:
        raise EngineError(f"OpenVINO {openvino.__version__} does not start: {last_line(error)}") from error


def find_devices(core: Any) -> list[Device]:
    """Every device of this machine.

    Args:
        core: An `openvino.Core`.

    Raises:
        EngineError: If a device does not say what it is.
    """
    return [_describe(core, name) for name in _names(core)]


def find_device(core: Any, name: str) -> Device:
    """The device called `name`; `GPU` is the first of several. No other one is asked for anything.

    Args:
        core: An `openvino.Core`.
        name: As OpenVINO calls it.

    Raises:
        EngineError: If there is no such device, with those that there are, or it does not say what it is.
    """
    names = _names(core)
    fits = [known for known in names if known in (name, f"{name}.0")]
    if not fits:
        there = ", ".join(_title(core, known) for known in names) or "none"
        advice = "" if name == "CPU" else f"; a {name.partition('.')[0]} needs its driver, see docs/openvino.md"
        raise EngineError(f"OpenVINO finds no device {name} in this machine, only {there}{advice}")
    return _describe(core, fits[0])


def last_line(error: Exception) -> str:
    """What OpenVINO says last is the reason; before it come its own file names."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _names(core: Any) -> list[str]:
    try:
        return list(core.available_devices)
    except RuntimeError as error:
        raise EngineError(f"OpenVINO does not say which devices there are: {last_line(error)}") from error


def _title(core: Any, name: str) -> str:
    try:
        return f"{name} ({_describe(core, name).description})"
    except EngineError:
        return f"{name} (does not answer)"


def _describe(core: Any, name: str) -> Device:
    try:
        description = str(core.get_property(name, "FULL_DEVICE_NAME"))
        capabilities = frozenset(core.get_property(name, "OPTIMIZATION_CAPABILITIES"))
        properties = frozenset(map(str, core.get_property(name, "SUPPORTED_PROPERTIES")))
    except RuntimeError as error:
        raise EngineError(
            f"OpenVINO's device {name} does not say what it is: {last_line(error)}; look at its driver, see "
            "docs/openvino.md"
        ) from error
    return Device(name, description, capabilities, properties)
