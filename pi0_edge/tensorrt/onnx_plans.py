"""A plan of a program by TensorRT's own ONNX reader, for boards that torch-tensorrt has no release for."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from pi0_edge.errors import EngineError


def build_from_onnx(path: Path, trt: ModuleType, capability: tuple[int, int] | None = None) -> bytes:
    """The plan of an ONNX file, for the GPU of this machine.

    Args:
        path: From `onnx_programs.write_onnx`; its weights lie beside it.
        trt: The module `tensorrt`. TensorRT-RTX has the same interface, and builds without a GPU.
        capability: Of the GPU to build for, where it is not in this machine; TensorRT-RTX only.

    Raises:
        EngineError: If TensorRT cannot read the file or build it, with what it said.
    """
    log = _collecting_log(trt)
    builder = trt.Builder(log)
    parser = trt.OnnxParser(network := builder.create_network(_flags(trt)), log)
    if not parser.parse_from_file(str(path)):
        reasons = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise EngineError(f"TensorRT {trt.__version__} cannot read {path}: {reasons}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # what a scheme calls fp32 is fp32
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability[0]}{capability[1]}"), 0)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        reasons = "; ".join(log.errors) or "no reason given"
        raise EngineError(f"TensorRT {trt.__version__} cannot build {path}: {reasons}")
    return bytes(plan)


def _flags(trt: ModuleType) -> int:
    """Strongly typed: formats are those of the file. Newer versions know nothing else, and have no flag for it."""
    strong = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if strong is None else 1 << int(strong)


def _collecting_log(trt: ModuleType) -> Any:
    """A logger of TensorRT that keeps errors for our message, and prints nothing."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()
