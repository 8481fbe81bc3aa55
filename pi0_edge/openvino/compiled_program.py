"""One program, compiled by OpenVINO for a device of this machine, and called with torch tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from pi0_edge.errors import EngineError
from pi0_edge.openvino.installed import Device, last_line

_DYNAMIC_QUANTIZATION = "DYNAMIC_QUANTIZATION_GROUP_SIZE"


class CompiledProgram:
    """A program that is ready to run; it allows one call at a time."""

    def __init__(
        self,
        path: Path,
        inputs: tuple[str, ...],
        openvino: ModuleType,
        core: Any,
        device: str,
        settings: Mapping[str, Any],
    ) -> None:
        """Reads a program and compiles it.

        Args:
            path: Of an ONNX file or of OpenVINO's own `.xml`; its weights lie beside it.
            inputs: Names of the inputs in the order of a call.
            openvino: The module.
            core: An `openvino.Core`.
            device: To compile for, as OpenVINO calls it.
            settings: Of the compilation, see `exact_settings`.

        Raises:
            EngineError: If OpenVINO does not take the program, or its inputs are others.
        """
        self._openvino = openvino
        self._types = {
            torch.float32: openvino.Type.f32,
            torch.bfloat16: openvino.Type.bf16,
        }
        self._dtypes = {"f32": torch.float32, "bf16": torch.bfloat16}
        try:
            compiled = core.compile_model(str(path), device, dict(settings))
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO {openvino.__version__} does not compile {path.name} for {device}: {last_line(error)}"
            ) from error
        found = {port.get_any_name() for port in compiled.inputs}
        if found != set(inputs):
            raise EngineError(f"the program {path.name} has the inputs {sorted(found)}, expected {sorted(inputs)}")
        self.compiled = compiled
        self._request, self._inputs = compiled.create_infer_request(), inputs

    def __call__(self, *arguments: Tensor) -> Any:
        """Runs the program once.

        Args:
            arguments: As the program takes them, on the CPU.

        Returns:
            What the program returns: one tensor, or a tuple of them.

        Raises:
            EngineError: If OpenVINO does not take the inputs, or the device fails.
        """
        held = [argument.contiguous() for argument in arguments]  # OpenVINO reads this memory and does not own it
        try:
            for name, tensor in zip(self._inputs, held, strict=True):
                self._request.set_tensor(name, self._shared(tensor))
            self._request.infer()
        except RuntimeError as error:
            raise EngineError(f"OpenVINO did not run a program: {last_line(error)}") from error
        first, *others = (self._copied(port) for port in self.compiled.outputs)
        return (first, *others) if others else first

    def _shared(self, tensor: Tensor) -> Any:
        """An OpenVINO tensor over the memory of a torch tensor."""
        array = tensor.view(torch.uint8).numpy() if tensor.ndim else tensor.numpy()
        return self._openvino.Tensor(array, list(tensor.shape), self._types[tensor.dtype])

    def _copied(self, port: Any) -> Tensor:
        """An output of the last run, in memory of its own."""
        found = self._request.get_tensor(port)
        dtype = self._dtypes[found.element_type.get_type_name()]
        content = torch.frombuffer(bytearray(found.data.tobytes()), dtype=dtype)
        return content.view(tuple(found.shape))


def exact_settings(device: Device, precision: str, threads: int) -> dict[str, Any]:
    """The settings of a compilation that computes what the program says, each chunk as soon as can be.

    Args:
        device: To compile for.
        precision: Of what is not quantized: `f32`, `bf16` or `f16`, see `schemes.rest_precision`.
        threads: That the CPU may use; without meaning on another device.
    """
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if device.name == "CPU":
        settings |= {
            "INFERENCE_NUM_THREADS": threads,
            # Where the threads may run is said by whoever starts the process, for the bridge's sake.
            "ENABLE_CPU_PINNING": False,
        }
    if _DYNAMIC_QUANTIZATION in device.properties:
        # Else activations that a scheme leaves in 16 bits would be brought to 8 where the weights have 8: by the CPU,
        # and by GPUs with matrix engines (XMX).
        settings[_DYNAMIC_QUANTIZATION] = 0
    return settings
