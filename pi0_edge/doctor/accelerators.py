"""Torch, CUDA and Jetson."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from pi0_edge.doctor.check import Check, apt, pip

_BOARD = Path("/proc/device-tree/model")
_L4T = Path("/etc/nv_tegra_release")


def torch_build() -> Check:
    """Whether the network can run at all."""
    if importlib.util.find_spec("torch") is None:
        return Check("torch", "fail", "not installed (only the bridge works without it)", pip("policy"))
    import torch

    return Check("torch", "pass", f"{torch.__version__}, {torch.get_num_threads()} threads")


def cuda() -> Check:
    """Whether torch sees a GPU."""
    if importlib.util.find_spec("torch") is None:
        return Check("CUDA", "warn", "unknown without torch", pip("policy"))
    import torch

    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        return Check("CUDA", "pass", f"{torch.cuda.get_device_name()}, sm_{major}{minor}, CUDA {torch.version.cuda}")
    build = "a CPU build" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
    return Check("CUDA", "warn", f"no CUDA device (torch is {build}); the CPU engine is used", "nvidia-smi")


def jetson() -> Check:
    """Which Jetson this is."""
    board = _BOARD.read_bytes().decode(errors="replace").strip("\0") if _BOARD.is_file() else ""
    if "jetson" not in board.lower() and not _L4T.is_file():
        return Check("Jetson", "pass", "not a Jetson; nothing of it is needed here")
    release = _L4T.read_text(errors="replace").splitlines()[0] if _L4T.is_file() else ""
    if not release:
        return Check("Jetson", "warn", f"{board}, but {_L4T} is missing", "sudo apt-get install nvidia-jetpack")
    return Check("Jetson", "pass", f"{board}: {release}")


def nvcc() -> Check:
    """The CUDA compiler; shipped kernels will not need it."""
    found = shutil.which("nvcc")
    if found:
        return Check("nvcc", "pass", found)
    return Check("nvcc", "warn", "not installed; only building CUDA kernels needs it", apt("nvidia-cuda-toolkit"))
