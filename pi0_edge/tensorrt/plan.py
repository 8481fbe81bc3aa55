"""Runs a plan on the GPU, whoever built it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from pi0_edge.errors import EngineError


class Plan:
    """A loaded plan with its output buffers: a call overwrites what the one before it returned."""

    def __init__(self, content: bytes, inputs: tuple[str, ...], trt: ModuleType, device: torch.device) -> None:
        """Loads a plan.

        Args:
            content: The plan.
            inputs: Names of the inputs in the order of a call.
            trt: The module `tensorrt`.
            device: The GPU it was built for.

        Raises:
            EngineError: If TensorRT does not take the plan, or its inputs are others.
        """
        types = {
            trt.DataType.FLOAT: torch.float32,
            trt.DataType.HALF: torch.float16,
            trt.DataType.BF16: torch.bfloat16,
            trt.DataType.INT64: torch.int64,
        }
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))  # must outlive its engine
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise EngineError(f"TensorRT {trt.__version__} does not load this plan; empty the folder of plans")
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        found = {name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
        if found != set(inputs):
            raise EngineError(f"the plan has the inputs {sorted(found)}, expected {sorted(inputs)}")
        self._context, self._device = engine.create_execution_context(), device
        self._inputs = {name: types[engine.get_tensor_dtype(name)] for name in inputs}
        self._outputs = {
            name: torch.empty(
                tuple(engine.get_tensor_shape(name)), dtype=types[engine.get_tensor_dtype(name)], device=device
            )
            for name in names
            if name not in found
        }
        for name, buffer in self._outputs.items():
            self._context.set_tensor_address(name, buffer.data_ptr())

    def __call__(self, *arguments: Tensor) -> Any:
        """Enqueues one run on the current stream.

        Args:
            arguments: As the program takes them, on any device.

        Returns:
            What the program returns: one tensor, or a tuple of them.

        Raises:
            EngineError: If TensorRT does not take the inputs.
        """
        placed = [
            argument.to(self._device, dtype).contiguous()
            for argument, dtype in zip(arguments, self._inputs.values(), strict=True)
        ]
        for name, tensor in zip(self._inputs, placed, strict=True):
            self._context.set_tensor_address(name, tensor.data_ptr())
        if not self._context.execute_async_v3(torch.cuda.current_stream(self._device).cuda_stream):
            raise EngineError("TensorRT refused to run a plan; its log on standard error says why")
        first, *others = self._outputs.values()
        return (first, *others) if others else first
