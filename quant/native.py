"""The C library of `quant/native/`: integer products, attention and whole stacks of layers on the CPU.

It is compiled when the package is installed and called with ctypes. Where it is not there, such as without a C
compiler, torch computes the same (`pi0_edge.quant.integer_matmul`, `pi0_edge.quant.fused_activation`).
"""

from __future__ import annotations

import ctypes
import functools
import logging
from enum import IntEnum
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)

PANEL = 32
"""Output channels that lie together in packed weights."""
BYTE_SHIFT = 128
"""Added to INT8 tokens, which makes them unsigned bytes."""

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_int64


class Level(IntEnum):
    """Instructions that the library uses, in the words of `tiles.c`."""

    PORTABLE = 0
    AVX2 = 1
    AVX_VNNI = 2
    AVX512_VNNI = 3
    NEON_DOT = 4


class Linear(ctypes.Structure):
    """`struct pi0_linear`: addresses of packed weights; whoever fills it keeps the tensors."""

    _fields_ = (
        ("panels", _POINTER),
        ("scale", _POINTER),
        ("shift", _POINTER),
        ("bias", _POINTER),
        ("depth", _SIZE),
        ("width", _SIZE),
    )


class Layer(ctypes.Structure):
    """`struct pi0_layer`."""

    _fields_ = (
        *((name, Linear) for name in ("q", "k", "v", "o", "gate", "up", "down")),
        *((name, _POINTER) for name in ("attention_norm", "attention_norm_bias", "mlp_norm", "mlp_norm_bias")),
        *((name, _POINTER) for name in ("attention_modulation", "mlp_modulation")),
        *((name, _POINTER) for name in ("keys", "values", "own_keys", "own_values")),
    )


class Stack(ctypes.Structure):
    """`struct pi0_stack`."""

    _fields_ = (
        ("layers", ctypes.POINTER(Layer)),
        *((name, _SIZE) for name in ("count", "width", "heads", "kv_heads", "head_dim")),
        ("x", _POINTER),
        *((name, _SIZE) for name in ("batch", "tokens")),
        *((name, _POINTER) for name in ("cosine", "sine")),
        ("rotary_batch_stride", _SIZE),
        *((name, _POINTER) for name in ("seen", "own")),
        ("capacity", _SIZE),
        *((name, _SIZE) for name in ("modulation_batch_stride", "modulation_token_stride")),
    )


_ARGUMENTS: dict[str, tuple[type, ...]] = {
    "pi0_quantize_rows": (_POINTER, _SIZE, _SIZE, _POINTER, _POINTER),
    "pi0_gelu_rows": (_POINTER, _POINTER, _POINTER, _POINTER, _SIZE, _SIZE, _POINTER, _POINTER),
    "pi0_pack_weight": (_POINTER, _SIZE, _SIZE, _POINTER, _POINTER),
    "pi0_linear_rows": (ctypes.POINTER(Linear), _POINTER, _POINTER, _SIZE, _POINTER),
    "pi0_run_stack": (ctypes.POINTER(Stack),),
    "pi0_fill_caches": (_POINTER, _POINTER, _POINTER, *(5 * (_SIZE,)), _POINTER, _POINTER),
    "pi0_cache_bytes": (_SIZE, _SIZE),
    "pi0_use_level": (ctypes.c_int,),
}
_LARGE_RESULTS = ("pi0_cache_bytes", "pi0_linear_bytes", "pi0_layer_bytes", "pi0_stack_bytes")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled form, on the threads that torch's OpenMP has started: a second pool would fight the first.

    It is not linked to an OpenMP library. It takes the one that torch brings, or else the system's, which is what a
    torch without one of its own has loaded, such as JetPack's.
    """
    built = next(iter(sorted(Path(__file__).parent.glob("_native*.so"))), None)
    if built is None:
        log.info("the C library is not compiled; torch computes instead: reinstall with a C compiler")
        return None
    try:
        for openmp in list((Path(torch.__file__).parent / "lib").glob("libgomp*")) or ["libgomp.so.1"]:
            ctypes.CDLL(str(openmp), mode=ctypes.RTLD_GLOBAL)
        loaded = ctypes.CDLL(str(built))
    except OSError as reason:
        log.info("the C library cannot be loaded; torch computes instead: %s", reason)
        return None
    if not _bind(loaded):
        log.info("the C library %s is of another version; torch computes instead: reinstall", built.name)
        return None
    return loaded


def _bind(loaded: ctypes.CDLL) -> bool:
    """Tells ctypes the arguments; False where a function is missing or a structure has another size."""
    try:
        for name, arguments in _ARGUMENTS.items():
            getattr(loaded, name).argtypes = arguments
        for name in _LARGE_RESULTS:
            getattr(loaded, name).restype = _SIZE
        sizes = loaded.pi0_linear_bytes(), loaded.pi0_layer_bytes(), loaded.pi0_stack_bytes()
    except AttributeError:
        return False
    return sizes == tuple(map(ctypes.sizeof, (Linear, Layer, Stack)))


def loaded_library() -> ctypes.CDLL:
    """The compiled form, for what exists only where it is there.

    Raises:
        RuntimeError: If it is not.
    """
    found = library()
    if found is None:
        raise RuntimeError("the C library of pi0_edge.quant is not compiled; reinstall with a C compiler")
    return found


def is_compiled() -> bool:
    """Whether the compiled form is in use."""
    return library() is not None


def level() -> Level:
    """The instructions in use; `PORTABLE` without the library."""
    loaded = library()
    return Level.PORTABLE if loaded is None else Level(loaded.pi0_level())


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """The address of a tensor, which must be contiguous and outlive its use."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


class PackedLinear:
    """A weight in the library's layout, with its scales.

    Attributes:
        struct: What the library is given, without a bias; valid as long as this object.
    """

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        """Packs.

        Args:
            weight: int8 [N, K], contiguous; may be released afterwards.
            scale: float32 [N].

        Raises:
            RuntimeError: If the library is not there.
        """
        loaded = loaded_library()
        width, depth = weight.shape
        panels = -(-width // PANEL)
        self._panels = torch.empty(panels * PANEL * row_bytes(depth), dtype=torch.int8)
        self._shift = torch.empty(panels * PANEL, dtype=torch.int32)
        loaded.pi0_pack_weight(pointer(weight), width, depth, pointer(self._panels), pointer(self._shift))
        self._scale = padded(scale)
        self.struct = Linear(*map(pointer, (self._panels, self._scale, self._shift, None)), depth, width)


def row_bytes(depth: int) -> int:
    """Bytes of one row of tokens: a multiple of 4."""
    return -(-depth // 4) * 4


def padded(values: Tensor) -> Tensor:
    """One value per output channel as float32, with zeros up to a whole panel."""
    return torch.nn.functional.pad(values.detach().float(), (0, -len(values) % PANEL)).contiguous()
