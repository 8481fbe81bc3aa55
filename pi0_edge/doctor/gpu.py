"""Torch, its GPU, and the CUDA compiler."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from pi0_edge.board.identity import l4t_release
from pi0_edge.doctor.check import Check, apt, pip
from pi0_edge.doctor.jetpack import find_jetpack
from pi0_edge.installed_packages import numpy_advice

KEEPS_GRAPHS = (2, 8)
"""The first torch that can count the nodes of what it captured; the CUDA engine runs with older ones, too."""

_ROOT = Path("/")


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
    """Whether torch finds a GPU and has code for it; on a Jetson, which torch its JetPack needs."""
    if importlib.util.find_spec("torch") is None:
        return Check("CUDA", "warn", "unknown without torch", pip("policy"))
    import torch

    jetpack = find_jetpack(l4t_release(_ROOT))
    build = "a CPU build" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
    if not torch.cuda.is_available():
        found = f"no CUDA device (torch {torch.__version__} is {build}); the CPU engine is used"
        if jetpack is None:
            return Check("CUDA", "warn", found, "nvidia-smi")
        return Check("CUDA", "warn", f"{found}; {jetpack.name} takes torch {jetpack.torch}", jetpack.install)
    major, minor = torch.cuda.get_device_capability()
    found = f"{torch.cuda.get_device_name()}, sm_{major}{minor}, torch {torch.__version__} {build}"
    codes = torch.cuda.get_arch_list()
    if codes and not _runs(codes, (major, minor), tegra=jetpack is not None):
        lacking = f"{found}, which has no code for this GPU ({', '.join(codes)})"
        if jetpack is None:
            fix = f"install a torch that was built for sm_{major}{minor}, or use the CPU engine"
            return Check("CUDA", "warn", lacking, fix)
        return Check("CUDA", "warn", f"{lacking}; {jetpack.name} takes torch {jetpack.torch}", jetpack.install)
    if tuple(map(int, torch.__version__.split(".")[:2])) < KEEPS_GRAPHS:
        found += "; its graphs run, and their nodes cannot be counted before torch 2.8"
    return Check("CUDA", "pass", found)


def _runs(codes: Sequence[str], capability: tuple[int, int], tegra: bool) -> bool:
    """Whether a GPU of this compute capability runs one of these codes.

    Machine code (`sm_`) runs on its own GPU, and on a later one of the same major number where none of the two is a
    Jetson's; an intermediate one (`compute_`) is compiled for every later GPU. Both with a letter are for their own.
    """
    for code in codes:
        named = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", code)
        if named is None:
            continue
        own = (int(named[2]), int(named[3]))
        later = capability >= own if named[1] == "compute" else own[0] == capability[0] and own <= capability
        if own == capability or (later and not named[4] and (named[1] == "compute" or not tegra)):
            return True
    return False


def kernels() -> Check:
    """Whether the CUDA kernels are here and say that they run; only a machine with a GPU or a Jetson needs them."""
    if importlib.util.find_spec("torch") is None:
        return Check("CUDA kernels", "warn", "unknown without torch", pip("policy"))
    import torch

    from pi0_edge.errors import KernelError
    from pi0_edge.kernels.library import kernel_library

    jetson = bool(l4t_release(_ROOT))
    if not jetson and not torch.cuda.is_available():
        return Check("CUDA kernels", "pass", "not needed without a GPU")
    try:
        library = kernel_library()
    except KernelError as error:
        fix = "install a wheel of pi0-edge that has the kernels; in a checkout " + (
            "make kernels-jetson builds it" if jetson else "make kernels builds them"
        )
        return Check("CUDA kernels", "warn", str(error), fix)
    try:
        library.require_device()
    except KernelError as error:
        fix = "a newer driver, or a GPU that docs/kernels.md names; until then the CPU engine"
        return Check("CUDA kernels", "warn", str(error), fix)
    return Check("CUDA kernels", "pass", "loaded, and the driver takes them")


def nvcc() -> Check:
    """The CUDA compiler, which only building the kernels needs."""
    found = shutil.which("nvcc")
    if found:
        return Check("nvcc", "pass", found)
    return Check("nvcc", "warn", "not installed; only building CUDA kernels needs it", apt("nvidia-cuda-toolkit"))
