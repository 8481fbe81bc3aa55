"""The programs as ONNX files in a folder, for the TensorRT of a board that has no torch-tensorrt.

What lies in the folder:

    attend.onnx, attend.onnx.data         once per chunk
    velocity.onnx, velocity.onnx.data     once per Euler step
    tables.safetensors                    what stays outside the programs: see `tables`
    programs.json                         inputs, outputs, scheme, Euler times, what they were made from
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pi0_edge.errors import EngineError, MissingDependencyError
from pi0_edge.model import Pi0
from pi0_edge.synced_files import save_synced, sync_tree
from pi0_edge.tensorrt.programs import Program, Shape, conditioning_table, export_program, input_names

OPSET = 20
"""The newest that TensorRT 10.3 of JetPack 6 reads, and new enough for FP8, which came with 19."""
DESCRIPTION = "programs.json"
TABLES = "tables.safetensors"


def write_onnx_programs(model: Pi0, shape: Shape, times: Tensor, folder: Path, about: dict[str, Any]) -> None:
    """Writes both programs and what belongs to them into a new folder.

    Args:
        model: In the form of `explicit_layers.write_out_quantization`.
        shape: Of the observations.
        times: float32 [steps], of the Euler loop.
        folder: Must not exist, or be empty.
        about: Goes into the description: scheme, and what the network was made from.

    Raises:
        EngineError: If the folder holds something.
        MissingDependencyError: If `onnx` or `onnxscript` is not installed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise EngineError(f"{folder} holds something already; name a new folder")
    require_onnx()
    folder.mkdir(parents=True, exist_ok=True)
    programs = {}
    for name in input_names(model.config):
        program = export_program(model, name, shape)
        write_onnx(program, folder / f"{name}.onnx")
        programs[name] = _interface(program)
    save_file(tables(model, times), folder / TABLES)
    description = {
        **about,
        "cameras": shape.cameras,
        "tokens": shape.tokens,
        "times": times.tolist(),
        "word_scale": math.sqrt(model.config.prefix.width),
        "programs": programs,
    }
    sync_tree(folder)  # the programs are found by their description, which therefore comes last
    save_synced(folder / DESCRIPTION, (json.dumps(description, indent=2) + "\n").encode())


def tables(model: Pi0, times: Tensor) -> dict[str, Tensor]:
    """What the programs take from outside, by name.

    Returns:
        `conditioning`, the input of this name for every Euler step, see `conditioning_table`; and the token embedding
        [vocabulary, width], as `embedding` or, quantized, as `embedding_values` and `embedding_scale`. The words of a
        prompt are its rows times the `word_scale` of `programs.json`.
    """
    embedding = {f"embedding_{name}": tensor for name, tensor in model.token_embedding.state_dict().items()}
    if "embedding_weight" in embedding:
        embedding = {"embedding": embedding["embedding_weight"]}
    return {"conditioning": conditioning_table(model, times), **embedding}


def write_onnx(program: Program, path: Path, more: Mapping[Any, Callable[..., Any]] | None = None) -> None:
    """One program as ONNX, its weights beside it in `<name>.onnx.data`: 8-bit ones stay 8-bit.

    Args:
        program: To write.
        path: Of the file.
        more: What further operators of torch are in ONNX, as `torch.onnx.export` takes it.

    Raises:
        EngineError: If the exporter gives nothing.
    """
    with _quiet():
        exported = torch.onnx.export(
            program.exported,
            program.arguments,
            input_names=program.inputs,
            output_names=program.outputs,
            opset_version=OPSET,
            dynamo=True,
            custom_translation_table={**_translations(), **(more or {})},
            verbose=False,
        )
    if exported is None:
        raise EngineError(f"torch.onnx.export gave nothing for the program {program.name}")
    for node in exported.model.graph.all_nodes():
        node.metadata_props.clear()  # file names and source lines of this machine
    exported.save(path, external_data=True)


def require_onnx() -> None:
    """Raises `MissingDependencyError` where the packages that write ONNX are not installed."""
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(f"writing ONNX needs the package {package}: pip install 'pi0-edge[tensorrt]'")


def _translations() -> dict[Any, Any]:
    """Our two operators in ONNX."""
    from onnxscript import opset20

    op: Any = opset20  # its annotations are those of ONNX

    def quantize(x, scale, dtype: int):  # noqa: ANN001, ANN202 onnxscript reads annotations as ONNX types
        return op.QuantizeLinear(x, scale, op.Cast(op.Constant(value_float=0.0), to=dtype))

    def dequantize(values, scale):  # noqa: ANN001, ANN202
        return op.DequantizeLinear(values, scale, axis=0)

    return {
        torch.ops.pi0.quantize_linear.default: quantize,
        torch.ops.pi0.dequantize_linear.default: dequantize,
    }


def _interface(program: Program) -> dict[str, Any]:
    inputs = zip(program.inputs, program.arguments, strict=True)
    return {
        "inputs": {
            name: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
            for name, value in inputs
        },
        "outputs": list(program.outputs),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about torchvision, which nobody asked for, and about its own future."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        log.setLevel(level)
