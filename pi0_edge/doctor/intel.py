"""OpenVINO, which runs the network on Intel's parts."""

from __future__ import annotations

from pathlib import Path

from pi0_edge.doctor.check import Check, pip
from pi0_edge.errors import EngineError, MissingDependencyError
from pi0_edge.openvino.installed import find_devices, load_openvino, open_core

_ROOT = Path("/")
_INTEL = "0x8086"
_NODES = (("dev/dri", "renderD*", "sys/class/drm"), ("dev/accel", "accel*", "sys/class/accel"))
"""Where GPUs and NPUs are: their nodes, and what the kernel says of them."""


def openvino() -> Check:
    """Whether OpenVINO is installed, and what it finds; missed only where there is an Intel GPU or NPU."""
    try:
        module = load_openvino()
    except MissingDependencyError:
        if parts := _intel_parts():
            found = f"not installed; it alone runs the network on what is here of Intel's: {', '.join(parts)}"
            return Check("OpenVINO", "warn", found, pip("openvino"))
        return Check("OpenVINO", "pass", "not installed, and no GPU or NPU of Intel's here")
    except EngineError as error:
        return Check("OpenVINO", "warn", str(error), "pip install --force-reinstall openvino")
    try:
        devices = [f"{device.name}: {device.description}" for device in find_devices(open_core(module))]
    except EngineError as error:
        return Check("OpenVINO", "warn", str(error), "install the device's driver anew, see docs/openvino.md")
    return Check("OpenVINO", "pass", f"{module.__version__}; {', '.join(devices)}")


def _intel_parts() -> list[str]:
    """Nodes of the GPUs and NPUs that Intel made; those of others have nodes of the same names."""
    found = []
    for folder, pattern, kernel in _NODES:
        for node in sorted((_ROOT / folder).glob(pattern)):
            try:
                vendor = (_ROOT / kernel / node.name / "device" / "vendor").read_text().strip()
            except OSError:
                continue
            if vendor == _INTEL:
                found.append(f"/{folder}/{node.name}")
    return found
