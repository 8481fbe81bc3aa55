"""OpenVINO, which runs the network on Intel's parts."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from pi0_edge.doctor.check import Check, pip

_CPUINFO = Path("/proc/cpuinfo")


def openvino() -> Check:
    """Whether OpenVINO is installed, and what it finds; missed on Intel's processors only."""
    found = importlib.util.find_spec("openvino")
    if found is None or found.origin is None:  # a folder of this name on the path is no package
        if _is_intel():
            return Check(
                "OpenVINO",
                "warn",
                "not installed; Intel's GPUs and NPUs run the network with it alone",
                pip("openvino"),
            )
        return Check("OpenVINO", "pass", "not installed, and no Intel processor here")
    try:
        module = importlib.import_module("openvino")
        core = module.Core()
        devices = [f"{name}: {core.get_property(name, 'FULL_DEVICE_NAME')}" for name in core.available_devices]
    except Exception as error:  # missing libraries and drivers come as every kind of error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Check("OpenVINO", "warn", f"it does not load: {reason}", "pip install --force-reinstall openvino")
    return Check("OpenVINO", "pass", f"{module.__version__}; {', '.join(devices)}")


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in _CPUINFO.read_text()
    except OSError:
        return False
