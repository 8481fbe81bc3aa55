"""The OpenVINO engine: two programs per number of cameras and of prompt tokens, on an Intel CPU, GPU or NPU.

    --engine openvino          the CPU
    --engine openvino:GPU      the first GPU that OpenVINO finds; any name of a device that it knows may follow

When to prefer it to the CPU engine: docs/openvino.md.
"""

from __future__ import annotations

import logging
import tempfile
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from pi0_edge.engine.programs import ProgramsEngine
from pi0_edge.errors import EngineError
from pi0_edge.model import Pi0
from pi0_edge.model.flow import EULER_STEPS, euler_times
from pi0_edge.openvino.compiled_program import CompiledProgram, exact_settings
from pi0_edge.openvino.installed import find_device, last_line, load_openvino, open_core
from pi0_edge.openvino.integer_probe import check_integer_products
from pi0_edge.openvino.program_cache import ProgramCache, ProgramKey, default_folder
from pi0_edge.openvino.schemes import check_openvino_scheme, rest_precision
from pi0_edge.quant.schemes import BF16_POLICY, Scheme
from pi0_edge.tensorrt.onnx_programs import require_onnx, write_onnx
from pi0_edge.tensorrt.plan_cache import network_digest
from pi0_edge.tensorrt.programs import Shape, export_program, input_names
from pi0_edge.tensorrt.qdq import write_out_quantization

logger = logging.getLogger(__name__)

KEPT_SHAPES = 4
"""So many shapes stay compiled, each with a copy of the weights; of more, the one unused for longest is dropped."""


class OpenVinoEngine(ProgramsEngine):
    """The network as programs that OpenVINO compiled, under the formats of its scheme.

    Attributes:
        device: What OpenVINO runs it on.
        precision: In which format that computes what the scheme leaves unquantized: `f32`, `bf16` or `f16`.
    """

    name = "openvino"
    maker = "OpenVINO"
    default_scheme = BF16_POLICY
    device_name = "CPU"

    def __init__(self, model: Pi0, scheme: Scheme = BF16_POLICY) -> None:
        """Writes out the quantization of `model`, in place.

        Args:
            model: Quantized under `scheme`, not packed.
            scheme: The scheme of its layers.

        Raises:
            EngineError: If OpenVINO has no such device, or does not run this scheme on it.
            MissingDependencyError: If a package is not installed.
        """
        self.check(scheme)
        self._openvino = load_openvino()
        self._core = open_core(self._openvino)
        self.device = find_device(self._core, self.device_name)
        self.precision = rest_precision(scheme, self.device)
        self._model = write_out_quantization(model.eval(), wide=True)
        self._digest = network_digest(model, scheme, Path(__file__))
        self._cache = ProgramCache(default_folder())
        self._device = torch.device("cpu")
        self._compiled: dict[Shape, tuple[CompiledProgram, CompiledProgram]] = {}
        self._tables = {}
        self.config = model.config
        self.scheme = scheme.name
        self.times = euler_times(EULER_STEPS)

    @classmethod
    @cache
    def on(cls, device_name: str) -> type[OpenVinoEngine]:
        """This engine on another device.

        Args:
            device_name: As OpenVINO calls it, such as `GPU` or `NPU`.
        """
        name = f"{cls.name}:{device_name}"
        return type(cls.__name__, (cls,), {"name": name, "device_name": device_name, "__doc__": cls.__doc__})

    @classmethod
    def check(cls, scheme: Scheme) -> None:
        """As `Engine`.

        Raises:
            EngineError: If OpenVINO has no such device, or does not run this scheme on it as written.
            MissingDependencyError: If a package is not installed.
        """
        check_openvino_scheme(scheme)
        openvino = load_openvino()
        require_onnx()
        core = open_core(openvino)
        device = find_device(core, cls.device_name)
        rest_precision(scheme, device)
        if any(rule.static for rule in scheme.rules):
            check_integer_products(openvino, core, device)

    def programs(self, shape: Shape) -> tuple[CompiledProgram, CompiledProgram]:
        """`attend` and `velocity` for a shape, compiled already or now."""
        pair = self._compiled.pop(shape, None)
        if pair is None:
            while len(self._compiled) >= KEPT_SHAPES:  # before the next one takes its memory
                del self._compiled[next(iter(self._compiled))]
            pair = (self._program("attend", shape), self._program("velocity", shape))
        self._compiled[shape] = pair  # the last one is the one that was used last
        return pair

    def _program(self, name: str, shape: Shape) -> CompiledProgram:
        path = self._written(name, shape)
        settings = exact_settings(self.device, self.precision, torch.get_num_threads())
        inputs = input_names(self.config)[name]
        return CompiledProgram(path, inputs, self._openvino, self._core, self.device.name, settings)

    def _written(self, name: str, shape: Shape) -> Path:
        """The program in OpenVINO's own format: from the cache, or written into it now."""
        of_shape = f"{name}-{shape.cameras}-cameras-{shape.tokens}-tokens"
        key = ProgramKey(self._digest, _versions(self._openvino), of_shape)
        found = self._cache.find(key)
        if found is not None:
            return found
        logger.warning("writing %s for %s; this takes seconds to minutes, once", name, shape)
        try:
            return self._cache.add(key, lambda path: self._write(name, shape, path))
        except OSError as error:
            raise EngineError(
                f"the folder of programs, {self._cache.folder}, cannot be written ({error}); free space there, or set "
                "XDG_CACHE_HOME to a folder that can be"
            ) from error

    def _write(self, name: str, shape: Shape, path: Path) -> None:
        """Writes a program as ONNX, and what OpenVINO reads in it to `path`."""
        with tempfile.TemporaryDirectory(dir=path.parent.parent) as folder, torch.inference_mode(False):
            onnx = Path(folder) / f"{name}.onnx"  # beside its place: it is as large as the network
            write_onnx(export_program(self._model, name, shape), onnx)
            try:
                model: Any = self._core.read_model(str(onnx))
            except RuntimeError as error:
                reason = f"OpenVINO {self._openvino.__version__} does not read {name}: {last_line(error)}"
                raise EngineError(reason) from error
            try:
                self._openvino.save_model(model, str(path), compress_to_fp16=False)
            except RuntimeError as error:  # so it calls a full disk, too
                raise OSError(last_line(error)) from error


def _versions(openvino: ModuleType) -> str:
    """Of all packages that make a program: torch exports it, onnx and onnxscript write it, OpenVINO reads that."""
    others = (f"{name} {metadata.version(name)}" for name in ("onnx", "onnxscript"))
    return " ".join((openvino.__version__, f"torch {torch.__version__}", *others))
