"""The compiled kernels: finding the library, calling its C functions, and its error messages.

The library is one file per processor, `build/<processor>/libpi0_kernels.so` beside this module: `make kernels`, or
`make kernels-jetson` for a Jetson, writes it there, and a wheel may ship it there. It loads on a machine without a GPU,
where every call raises a `KernelError`.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from pi0_edge.errors import KernelError

VERSION = 6
"""`PI0_LIBRARY_VERSION` of the C header that this Python belongs to."""

TYPE_CODES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2, torch.int8: 3, torch.float8_e4m3fn: 4}
"""`pi0_type` of the C header."""

NAME = "libpi0_kernels.so"
BUILD = Path(__file__).parent / "build"

_ERROR_HINTS = {
    35: "no CUDA driver, or one that is too old",
    100: "no CUDA device",
    209: "the library has no code for this GPU; none is compiled for GPUs before Ampere (compute capability 8.0)",
    801: "this GPU, or the code compiled for it, has no FP8 tensor cores; use FP8 weights with 16-bit activations",
    222: "the driver is too old to compile the kernels for this GPU; update it",
}


@dataclass(frozen=True)
class Strided:
    """A tensor whose strides are arguments of their own: `KernelLibrary.call` passes its address as it is."""

    tensor: Tensor


class GemmArguments(ctypes.Structure):
    """`struct pi0_gemm` of the C header, field by field; its size is compared when a library is loaded."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("a", "weight", "a_scale", "column_scale", "bias", "gate", "frozen")),
        *((name, ctypes.c_void_p) for name in ("residual", "out_scale", "squares", "norm_scale", "scaled")),
        *((name, ctypes.c_void_p) for name in ("out_squares", "next", "out", "workspace")),
        *((name, ctypes.c_int64) for name in ("workspace_bytes", "next_bytes", "m", "n", "k", "a_type", "type")),
        ("fp8_weights", ctypes.c_int64),
        *((name, ctypes.c_int64) for name in ("activation", "tile", "blocks")),
    )


class Kind(Enum):
    """What a C function takes at one place. A pointer names the elements that it points to; `ANY` is `void *`."""

    ANY = "pointer"
    F32 = torch.float32
    I32 = torch.int32
    I8 = torch.int8
    U8 = torch.uint8
    GEMM = "struct pi0_gemm"
    SIZE = "int64_t"
    TYPE = "pi0_type"
    FLOAT = "float"


ANY, F32, I32, I8, U8, GEMM, SIZE, TYPE, FLOAT = Kind
_C_TYPES = {SIZE: ctypes.c_int64, TYPE: ctypes.c_int64, FLOAT: ctypes.c_float, GEMM: ctypes.POINTER(GemmArguments)}

FUNCTIONS: dict[str, tuple[Kind, ...]] = {
    "attention": (*3 * (ANY,), I32, ANY, *9 * (SIZE,), TYPE),
    "rope_attention": (ANY, F32, ANY, ANY, I32, ANY, ANY, ANY, *8 * (SIZE,), TYPE),
    "embed_actions": (F32, F32, F32, I32, ANY, F32, ANY, SIZE, SIZE, SIZE, TYPE, TYPE),
    "euler_update": (ANY, I32, F32, F32, F32, F32, F32, SIZE, SIZE, SIZE, FLOAT, FLOAT, TYPE),
    "geglu": (ANY, ANY, F32, SIZE, SIZE, SIZE, TYPE, TYPE),
    "norm": (ANY, F32, F32, F32, I32, ANY, F32, *4 * (SIZE,), FLOAT, TYPE, TYPE),
    "patches": (U8, *4 * (I32,), F32, *9 * (SIZE,)),
    "quantize": (ANY, ANY, F32, SIZE, SIZE, SIZE, TYPE, TYPE),
    "rope": (ANY, F32, ANY, ANY, ANY, *5 * (SIZE,), TYPE),
    "gemm_int8": (GEMM,),
    "gemm_fp8": (GEMM,),
    "gemm_weight_only": (GEMM,),
}
"""The arguments of every kernel's C function, without the stream, in the order of the C header."""

Argument = Tensor | Strided | GemmArguments | torch.dtype | int | float | None


class KernelLibrary:
    """A loaded library; `call` is the only way into it."""

    def __init__(self, path: Path, functions: Mapping[str, tuple[Kind, ...]] = FUNCTIONS) -> None:
        """Loads the file.

        Args:
            path: The library.
            functions: The arguments of its C functions.

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
        self._functions.pi0_gemm_size.restype = ctypes.c_int64
        size, expected = self._functions.pi0_gemm_size(), ctypes.sizeof(GemmArguments)
        if size != expected:
            raise KernelError(f"{path.name} has a pi0_gemm of {size} bytes, expected {expected}: build it again")
        self._kinds = functions
        for name, kinds in functions.items():
            argtypes = [_C_TYPES.get(kind, ctypes.c_void_p) for kind in kinds]
            getattr(self._functions, f"pi0_{name}").argtypes = [*argtypes, ctypes.c_int64]

    def require_device(self) -> None:
        """Returns if kernels can run here.

        Raises:
            KernelError: If there is no GPU, or none that these kernels run on.
        """
        needed, found = ctypes.c_int64(), ctypes.c_int64()
        error = self._functions.pi0_device_ready(ctypes.byref(needed), ctypes.byref(found))
        self._check(error, "the kernels cannot run")
        if found.value < needed.value:
            raise KernelError(
                f"the kernels cannot run: a block needs {needed.value} bytes of shared memory, and this GPU gives it "
                f"{found.value}; Orin, Thor, A100, H100, H200 and B200 give enough, GeForce RTX 30, 40 and 50 do not"
            )

    def call(self, name: str, *arguments: Argument, device: torch.device | None = None) -> None:
        """Enqueues one C function on the current stream of a device.

        Args:
            name: Of the function, without `pi0_`.
            arguments: In the order of `FUNCTIONS`. A tensor, which must be contiguous, passes its address, a dtype its
                `pi0_type`, an int an int64_t, a float a float, and None a null pointer.
            device: Where to run it; that of the first tensor where None.

        Raises:
            KernelError: If an argument is not of the kind in `FUNCTIONS`, the function refuses its sizes, or the GPU
                cannot run it.
        """
        kinds = self._kinds[name]
        if len(arguments) != len(kinds):
            raise KernelError(f"{name}: expected {len(kinds)} arguments, found {len(arguments)}")
        converted = [_convert(name, *pair) for pair in zip(kinds, arguments, strict=True)]
        if device is None:
            device = next(tensor.device for tensor in map(_tensor, arguments) if tensor is not None)
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        self._check(getattr(self._functions, f"pi0_{name}")(*converted, stream), name)

    def _check(self, error: int, what: str) -> None:
        if error:
            said = self._functions.pi0_error_string(error).decode()
            raise KernelError(f"{what}: " + (f"{_ERROR_HINTS[error]}: {said}" if error in _ERROR_HINTS else said))


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


def address(name: str, tensor: Tensor | None) -> int | None:
    """Where the elements of a contiguous tensor are; None is a null pointer.

    Raises:
        KernelError: If it is not contiguous; `name` is that of the C function.
    """
    if tensor is not None and not tensor.is_contiguous():
        raise KernelError(f"{name}: a tensor of shape {list(tensor.shape)} is not contiguous; call .contiguous()")
    return None if tensor is None else tensor.data_ptr()


def type_code(name: str, dtype: torch.dtype) -> int:
    """The `pi0_type` of a dtype.

    Raises:
        KernelError: If there is none; `name` is that of the C function.
    """
    if dtype not in TYPE_CODES:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in TYPE_CODES)
        raise KernelError(f"{name}: {dtype} is not a type of any kernel; expected one of {known}")
    return TYPE_CODES[dtype]


def _convert(name: str, kind: Kind, argument: Argument) -> object:
    """The argument as ctypes passes it where the C function takes `kind`."""
    if kind is TYPE and isinstance(argument, torch.dtype):
        return type_code(name, argument)
    if (kind is SIZE and isinstance(argument, int)) or (kind is FLOAT and isinstance(argument, float)):
        return argument
    if kind is GEMM and isinstance(argument, GemmArguments):
        return ctypes.byref(argument)
    if kind not in _C_TYPES:
        if argument is None:
            return None
        if kind is ANY and isinstance(argument, Strided):
            return argument.tensor.data_ptr()
        if isinstance(argument, Tensor) and kind.value in ("pointer", argument.dtype):
            return address(name, argument)
    found = f"a {argument.dtype} tensor" if isinstance(argument, Tensor) else repr(argument)
    raise KernelError(f"{name}: expected {kind.value}, found {found}")
