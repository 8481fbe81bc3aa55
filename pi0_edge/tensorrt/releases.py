"""Which TensorRT goes with which board, and what of it is installed here."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from pi0_edge.errors import EngineError

Builder = Literal["torch-tensorrt", "ONNX"]


@dataclass(frozen=True)
class Release:
    """One kind of machine.

    Attributes:
        machine: Its name.
        cuda: Version of CUDA.
        tensorrt: Version of TensorRT.
        python: Version of Python.
        torch_tensorrt: The release of torch-tensorrt that goes with it; None where there is none.
    """

    machine: str
    cuda: str
    tensorrt: str
    python: str
    torch_tensorrt: str | None


RELEASES = (
    Release("JetPack 6.2 (Orin)", "12.6", "10.3", "3.10", "2.8"),
    Release("JetPack 7.2 (Orin, Thor)", "13.2", "10.16", "3.12", None),
    Release("x86_64 or SBSA with CUDA 13", "13", "11.0", "3.10 to 3.13", "2.13"),
)
"""November 2026. torch-tensorrt 2.9 to 2.12 have no release for Orin, and say to stay with 2.8."""


def installed_tensorrt() -> tuple[ModuleType, Builder, str]:
    """The module `tensorrt`, what builds plans with it, and the versions of both.

    torch-tensorrt builds where it is installed, TensorRT's own ONNX reader where it is not.

    Raises:
        EngineError: If TensorRT is not installed, or something of it does not load.
    """
    found = importlib.util.find_spec("tensorrt")
    if found is None or found.origin is None:  # a folder of this name on the path is no package
        raise EngineError(f'the TensorRT engine needs the Python package tensorrt: {advice()}; or use engine="cpu"')
    trt = _load("tensorrt")
    if importlib.util.find_spec("torch_tensorrt") is None:
        return trt, "ONNX", f"tensorrt {trt.__version__} onnx"
    made = _load("torch_tensorrt")
    return trt, "torch-tensorrt", f"tensorrt {trt.__version__} torch-tensorrt {made.__version__}"


def advice() -> str:
    """What to install, per board, as part of a sentence."""
    return ", ".join(
        f"{release.machine} has TensorRT {release.tensorrt} and "
        + (f"torch-tensorrt {release.torch_tensorrt}" if release.torch_tensorrt else "no torch-tensorrt")
        for release in RELEASES
    )


def _load(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # missing libraries and missing drivers come as every kind of error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EngineError(f"the Python package {name} is installed and does not load ({reason}): {advice()}") from error
