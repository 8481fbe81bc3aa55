"""torch-tensorrt without a GPU: its converters on the real TensorRT-RTX, which builds plans for absent GPUs.

    pip install --no-deps --target build/torch-tensorrt torch-tensorrt-rtx==2.13.0 dllist
    pip install --no-deps tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings
    PYTHONPATH=. python tests/apparatus/torch_tensorrt_without_gpu.py > tests/data/torch_tensorrt_operators.csv

What stands in for the GPU: the questions which one there is, and loading the finished plan. Graph, decompositions,
converters and the builder are the real ones. In a process of its own, because it changes torch.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parents[2] / "build" / "torch-tensorrt"
STAND_IN = (8, 6)
"""Ampere like Orin (8.7), which TensorRT-RTX does not build for."""

SCHEMES = ("fp32", "bf16", "int8-w8a8-static", "int8-w8a16")
SIDE = 1024
CASES = [(variant, scheme) for variant in ("pi0", "pi05") for scheme in SCHEMES]


class _BuiltPlan:
    """What stands where a loaded engine would: torch-tensorrt only serializes it again."""

    def __init__(self, content: Any) -> None:
        self._content = bytes(content)

    def serialize(self) -> bytes:
        return self._content


class _NoRuntime:
    def __init__(self, log: object) -> None:
        pass

    def deserialize_cuda_engine(self, content: Any) -> _BuiltPlan:
        return _BuiltPlan(content)


def import_torch_tensorrt() -> Any:
    """The package, on a machine and a torch without CUDA."""
    trt: Any = importlib.import_module("tensorrt_rtx_bindings")
    sys.path.insert(0, str(FOLDER))
    sys.modules["tensorrt_rtx"] = sys.modules["tensorrt"] = trt
    torch.cuda.get_device_capability = lambda device=None: STAND_IN
    torch.cuda.current_device = lambda: 0
    torch.cuda.mem_get_info = lambda device=None: (2**34, 2**34)
    if not hasattr(torch._C, "_CudaDeviceProperties"):
        setattr(torch._C, "_CudaDeviceProperties", type("_CudaDeviceProperties", (), {}))  # noqa: B010
    trt.Runtime = _NoRuntime
    create = trt.Builder.create_builder_config

    def for_stand_in(self: Any) -> Any:
        config = create(self)
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        return config

    trt.Builder.create_builder_config = for_stand_in
    is_file = os.path.isfile
    os.path.isfile = lambda path: "libtorchtrt" not in str(path) and is_file(path)  # libraries of a torch with CUDA
    import torch_tensorrt  # pyright: ignore[reportMissingImports]

    os.path.isfile = is_file
    return torch_tensorrt


def main() -> None:
    """Makes plans of every case and prints, as CSV, which, and every operator on the way."""
    made = import_torch_tensorrt()
    import tensorrt as trt  # pyright: ignore[reportMissingImports]
    from tensorrt_cases import make_case, product_program
    from torch_tensorrt.dynamo import _compiler  # pyright: ignore[reportMissingImports]

    from pi0_edge.quant.formats import BF16, INT8_STATIC
    from pi0_edge.quant.schemes import Rule
    from pi0_edge.tensorrt.torch_tensorrt_plans import build_with_torch_tensorrt

    convert, lowered, exported = _compiler.interpret_module_to_result, set[str](), set[str]()

    def look(module: torch.fx.GraphModule, *arguments: Any, **options: Any) -> Any:
        lowered.update(operators(module.graph))
        return convert(module, *arguments, **options)

    _compiler.interpret_module_to_result = look
    print(f"# torch-tensorrt {made.__version__}: python tests/apparatus/torch_tensorrt_without_gpu.py")
    print("what,name")
    for variant, scheme in CASES:
        for name in ("attend", "velocity"):
            program = make_case(variant, scheme).program(name)
            exported |= operators(program.exported.graph)
            build_with_torch_tensorrt(program, trt)
            print(f"plan,{variant} {scheme} {name}")
    for name, activations in (("static INT8", INT8_STATIC), ("INT8 weights", BF16)):
        plan = build_with_torch_tensorrt(product_program(Rule(("*",), activations=activations), SIDE), trt)
        print(f"weights in the plan,{name}: {'8 bits' if len(plan) < 1.5 * SIDE**2 else 'folded'}")
    for each in sorted(exported):
        print(f"exported,{each}")
    for each in sorted(lowered):
        print(f"converted,{each}")


def operators(graph: torch.fx.Graph) -> set[str]:
    """Names of everything that a graph calls."""
    targets = {node.target for node in graph.nodes if node.op == "call_function"}
    return {str(each) if isinstance(each, torch._ops.OpOverload) else each.__name__ for each in targets}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
