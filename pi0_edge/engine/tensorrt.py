"""The TensorRT engine: two plans per number of cameras and of prompt tokens, built on the device when first asked for.

Vision, prefix and state token are one plan, an Euler step is the other; the loop around them is torch's. When to prefer
it to the CUDA engine, and which versions it needs: docs/tensorrt.md.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from pi0_edge.engine.programs import ProgramsEngine
from pi0_edge.errors import EngineError
from pi0_edge.model import Continuation, ModelInputs, Pi0
from pi0_edge.model.flow import EULER_STEPS, euler_times
from pi0_edge.quant.schemes import BF16_POLICY, Scheme
from pi0_edge.tensorrt.onnx_plans import build_from_onnx
from pi0_edge.tensorrt.onnx_programs import require_onnx, write_onnx
from pi0_edge.tensorrt.plan import Plan
from pi0_edge.tensorrt.plan_cache import PlanCache, PlanKey, default_folder, network_digest
from pi0_edge.tensorrt.programs import Program, Shape, export_program, input_names
from pi0_edge.tensorrt.qdq import check_tensorrt_scheme, write_out_quantization
from pi0_edge.tensorrt.releases import advice, installed_tensorrt
from pi0_edge.tensorrt.torch_tensorrt_plans import build_with_torch_tensorrt

logger = logging.getLogger(__name__)


class TensorRtEngine(ProgramsEngine):
    """The network as plans of TensorRT, under the formats of its scheme."""

    name = "tensorrt"
    maker = "TensorRT"
    default_scheme = BF16_POLICY

    def __init__(self, model: Pi0, scheme: Scheme = BF16_POLICY) -> None:
        """Writes out the quantization of `model`, in place.

        Args:
            model: Quantized under `scheme`, not packed.
            scheme: The scheme of its layers.

        Raises:
            EngineError: If there is no GPU, no TensorRT, or none that runs this scheme.
        """
        self.check(scheme)
        self._trt, self._builder, self._versions = installed_tensorrt()
        self._model = write_out_quantization(model.eval())
        self._digest = network_digest(model, scheme)
        self._cache = PlanCache(default_folder())
        self._device = torch.device("cuda", torch.cuda.current_device())
        self._stream = torch.cuda.Stream(self._device)
        self._loaded: dict[Shape, tuple[Plan, Plan]] = {}
        self._tables: dict[tuple[float, ...], Tensor] = {}
        self.config = model.config
        self.scheme = scheme.name
        self.times = euler_times(EULER_STEPS)

    @classmethod
    def check(cls, scheme: Scheme) -> None:
        """As `Engine`.

        Raises:
            EngineError: If there is no GPU, no TensorRT, or none that runs this scheme.
            MissingDependencyError: If plans are built from ONNX here, and the packages that write it are not installed.
        """
        if not torch.cuda.is_available():
            build = "a CPU build" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
            raise EngineError(
                f"the TensorRT engine needs a CUDA device, and torch ({build}) sees none: {advice()}; "
                'here use engine="cpu", or write ONNX for the board with `pi0-edge export`'
            )
        _, builder, _ = installed_tensorrt()
        check_tensorrt_scheme(scheme, torch.cuda.get_device_capability())
        if builder == "ONNX":
            require_onnx()

    def infer(self, inputs: ModelInputs, noise: Tensor, continuation: Continuation | None = None) -> Tensor:
        """As `ProgramsEngine`, on the engine's own CUDA stream."""
        with torch.cuda.stream(self._stream):
            return super().infer(inputs, noise, continuation)

    def programs(self, shape: Shape) -> tuple[Plan, Plan]:
        """The plans of `attend` and `velocity` for a shape: loaded already, from the cache, or built now."""
        if shape not in self._loaded:
            self._loaded[shape] = (self._plan("attend", shape), self._plan("velocity", shape))
        return self._loaded[shape]

    def _plan(self, name: str, shape: Shape) -> Plan:
        gpu, capability = torch.cuda.get_device_name(self._device), torch.cuda.get_device_capability(self._device)
        key = PlanKey(self._digest, gpu, capability, self._versions, shape, name)
        content = self._cache.load(key)
        if content is None:
            logger.warning("TensorRT builds %s for %s; this takes minutes, once", name, shape)
            with torch.inference_mode(False):  # compilers trace, and tensors of inference are not for tracing
                content = self._build(export_program(self._model, name, shape))
            self._cache.store(key, content)
        return Plan(content, input_names(self.config)[name], self._trt, self._device)

    def _build(self, program: Program) -> bytes:
        if self._builder == "torch-tensorrt":
            return build_with_torch_tensorrt(program, self._trt)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{program.name}.onnx"
            write_onnx(program, path)
            return build_from_onnx(path, self._trt)
