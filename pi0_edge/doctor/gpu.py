"""Torch, its GPU, and the CUDA compiler."""

from __future__ import annotations

import importlib.util
import shutil

from pi0_edge.doctor.check import Check, apt, pip
from pi0_edge.installed_packages import numpy_advice


def torch_build() -> Check:
    """Whether torch is installed, without which no network runs."""
    if importlib.util.find_spec("torch") is None:
        return Check("torch", "fail", "not installed (only the bridge works without it)", pip("policy"))
    try:
        import torch

        torch.zeros(1).numpy()
    except RuntimeError as error:
        return Check("torch", "fail", str(error), numpy_advice())
    except (ImportError, OSError) as error:
        return Check("torch", "fail", f"it cannot be imported: {error}", "pip install --force-reinstall torch")
    return Check("torch", "pass", f"{torch.__version__}, {torch.get_num_threads()} threads")


def cuda() -> Check:
    """Whether torch finds a GPU."""
    if importlib.util.find_spec("torch") is None:
        return Check("CUDA", "warn", "unknown without torch", pip("policy"))
    import torch

    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        return Check("CUDA", "pass", f"{torch.cuda.get_device_name()}, sm_{major}{minor}, CUDA {torch.version.cuda}")
    build = "a CPU build" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
    return Check("CUDA", "warn", f"no CUDA device (torch is {build}); the CPU engine is used", "nvidia-smi")


def nvcc() -> Check:
    """The CUDA compiler, which only building the kernels needs."""
    found = shutil.which("nvcc")
    if found:
        return Check("nvcc", "pass", found)
    return Check("nvcc", "warn", "not installed; only building CUDA kernels needs it", apt("nvidia-cuda-toolkit"))
