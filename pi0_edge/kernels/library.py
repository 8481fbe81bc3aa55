"""The compiled kernels: finding the library, calling its C functions, and what it says when it cannot run.

The library is one file per processor, `build/<processor>/libpi0_kernels.so` beside this module: `make kernels` writes
it there, and a wheel may ship it there. It loads on a machine without a GPU, where every call raises a `KernelError`.
"""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from pi0_edge.errors import KernelError

VERSION = 2
"""`PI0_LIBRARY_VERSION` of the C header that this Python belongs to."""

TYPE_CODES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2, torch.int8: 3}
"""`pi0_type` of the C header."""

NAME = "libpi0_kernels.so"
BUILD = Path(__file__).parent / "build"

_SAY_MORE = {
    35: "no CUDA device",  # insufficient driver: also what a machine without any driver answers
    100: "no CUDA device",
    209: "this GPU is older than Ampere (compute capability 8.0), for which the kernels are compiled",
    801: "this GPU, or the code compiled for it, has no FP8 tensor cores; use FP8 weights with 16-bit activations",
    222: "the driver is too old to compile the kernels for this GPU; update it",
}


@dataclass(frozen=True)
class Strided:
    """A tensor whose strides the kernel is told: `KernelLibrary.call` passes its address as it is."""

    tensor: Tensor


Argument = Tensor | Strided | torch.dtype | int | float | None


class KernelLibrary:
    """A loaded library; `call` is the only way into it."""

    def __init__(self, path: Path) -> None:
        """Loads the file.

        Raises:
            KernelError: If it does not load or is of another version than this package.
        """
        try:
            self._functions = ctypes.CDLL(str(path))
        except OSError as error:
            raise KernelError(f"the kernel library does not load: {error}; build it again: make kernels") from None
        found = self._functions.pi0_library_version()
        if found != VERSION:
            raise KernelError(
                f"{path.name} has version {found}, expected {VERSION}: build it again: make kernels (needs nvcc)"
            )
        self._functions.pi0_error_string.restype = ctypes.c_char_p

    def require_device(self) -> None:
        """Returns if kernels can run here.

        Raises:
            KernelError: If there is no GPU, or none that these kernels run on.
        """
        self._check(self._functions.pi0_device_ready(), "the kernels cannot run")

    def call(self, name: str, *arguments: Argument) -> None:
        """Enqueues one C function, on the current stream of the device of its first tensor.

        Args:
            name: Of the function, without `pi0_`.
            arguments: In the order of the C declaration, without the stream, at least one tensor among them. A tensor,
                which must be contiguous, passes its address, a dtype its `pi0_type`, an int an int64_t, a float a
                float, and None a null pointer.

        Raises:
            KernelError: If the function refuses its sizes or the GPU cannot run it.
        """
        device = next(tensor.device for tensor in map(_tensor, arguments) if tensor is not None)
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        converted = [_convert(name, argument) for argument in (*arguments, stream)]
        self._check(getattr(self._functions, f"pi0_{name}")(*converted), name)

    def _check(self, error: int, what: str) -> None:
        if error:
            said = self._functions.pi0_error_string(error).decode()
            raise KernelError(f"{what}: " + (f"{_SAY_MORE[error]}: {said}" if error in _SAY_MORE else said))


@cache
def kernel_library() -> KernelLibrary:
    """The library of this machine.

    Raises:
        KernelError: If it is not built or does not load.
    """
    path = BUILD / platform.machine() / NAME
    if not path.is_file():
        raise KernelError("the kernel library is not built: run make kernels (needs nvcc)")
    return KernelLibrary(path)


def _tensor(argument: Argument) -> Tensor | None:
    argument = argument.tensor if isinstance(argument, Strided) else argument
    return argument if isinstance(argument, Tensor) else None


def _convert(name: str, argument: Argument) -> ctypes.c_void_p | ctypes._SimpleCData:
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, Strided):
        return ctypes.c_void_p(argument.tensor.data_ptr())
    if isinstance(argument, Tensor):
        if not argument.is_contiguous():
            raise KernelError(f"{name}: a tensor of shape {list(argument.shape)} is not contiguous; call .contiguous()")
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, torch.dtype):
        if argument not in TYPE_CODES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in TYPE_CODES)
            raise KernelError(f"{name}: {argument} is not a type of any kernel; expected one of {known}")
        return ctypes.c_int64(TYPE_CODES[argument])
    return ctypes.c_float(argument) if isinstance(argument, float) else ctypes.c_int64(argument)
