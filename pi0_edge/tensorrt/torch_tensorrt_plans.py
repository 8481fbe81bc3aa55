"""A plan of a program by torch-tensorrt, straight from its `torch.export` graph."""

from __future__ import annotations

import functools
import inspect
from types import ModuleType
from typing import Any

import torch

from pi0_edge.errors import EngineError
from pi0_edge.tensorrt.programs import Program


def build_with_torch_tensorrt(program: Program, trt: ModuleType) -> bytes:
    """The plan of a program, for the GPU of this machine.

    Args:
        program: To build.
        trt: The module `tensorrt`.

    Raises:
        EngineError: If torch-tensorrt cannot convert the program.
    """
    import torch_tensorrt  # pyright: ignore[reportMissingImports]

    register_converters(trt)
    convert = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine
    # Up to 2.8, which is what JetPack 6 has, precision is chosen freely unless typing is explicit; after that it always
    # is, and the option is gone. Options that do not exist are ignored in silence, so ask.
    known = inspect.signature(convert).parameters
    explicit = {"use_explicit_typing": True} if "use_explicit_typing" in known else {}
    try:
        return convert(program.exported, arg_inputs=list(program.arguments), disable_tf32=True, **explicit)
    except Exception as error:  # converters raise whatever they like
        raise EngineError(
            f"torch-tensorrt {torch_tensorrt.__version__} cannot convert the program {program.name}: {error}"
        ) from error


@functools.cache
def register_converters(trt: ModuleType) -> None:
    """Teaches torch-tensorrt our two operators; its own Q/DQ wants modelopt and quantizes the weights anew."""
    from torch_tensorrt.dynamo.conversion import dynamo_tensorrt_converter  # pyright: ignore[reportMissingImports]
    from torch_tensorrt.dynamo.conversion.converter_utils import (  # pyright: ignore[reportMissingImports]
        get_trt_tensor,
    )

    types = {torch.int8: trt.DataType.INT8, torch.float8_e4m3fn: trt.DataType.FP8}

    def quantize(ctx: Any, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
        x, scale, dtype = args
        layer = ctx.net.add_quantize(
            get_trt_tensor(ctx, x, f"{name}_x"), get_trt_tensor(ctx, scale, f"{name}_scale"), types[dtype]
        )
        layer.name = name
        return layer.get_output(0)

    def dequantize(ctx: Any, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
        values, scale = args
        layer = ctx.net.add_dequantize(
            get_trt_tensor(ctx, values, f"{name}_values"),
            get_trt_tensor(ctx, scale, f"{name}_scale"),
            trt.DataType.FLOAT,
        )
        if len(scale.shape):
            layer.axis = 0
        layer.name = name
        return layer.get_output(0)

    dynamo_tensorrt_converter(torch.ops.pi0.quantize_linear.default)(quantize)
    dynamo_tensorrt_converter(torch.ops.pi0.dequantize_linear.default)(dequantize)
