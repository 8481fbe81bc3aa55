"""The network of `benchmarks.cpu_peers` as the two programs of every peer that runs ONNX or OpenVINO's own format.

Weights are drawn and quantized layer by layer, so that a network of full size never exists in fp32 here; NNCF alone
starts from fp32.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pi0_edge.bench.random_weights import draw
from pi0_edge.engine.loading import blank_model
from pi0_edge.model import Pi0, Pi0Config
from pi0_edge.model.flow import EULER_STEPS, euler_times
from pi0_edge.openvino.compiled_program import CompiledProgram, exact_settings
from pi0_edge.openvino.installed import find_device, load_openvino
from pi0_edge.quant import QuantizedLinear, Scheme, quantize_layer
from pi0_edge.quant.schemes import FP32, INT8_W8A8_STATIC
from pi0_edge.tensorrt.onnx_programs import write_onnx
from pi0_edge.tensorrt.programs import (
    Shape,
    conditioning_table,
    embed_words,
    export_program,
    input_names,
    sample_actions,
)
from pi0_edge.tensorrt.qdq import write_out_quantization

# Random weights have no outliers to smooth, and smoothing needs two layers at once.
STATIC = replace(
    INT8_W8A8_STATIC, name="static", rules=tuple(replace(rule, smoothing=0.0) for rule in INT8_W8A8_STATIC.rules)
)
WEIGHTS = replace(STATIC, name="weights", rules=tuple(replace(rule, activations=None) for rule in STATIC.rules))
SCHEMES = {
    "openvino-static": STATIC,
    "openvino-weights": WEIGHTS,
    "openvino-nncf": FP32,
    "onnxruntime-dynamic": WEIGHTS,
}

torch.library.define("pi0_peers::dynamic_linear", "(Tensor x, Tensor values, Tensor scale) -> Tensor")


@torch.library.register_fake("pi0_peers::dynamic_linear")
def _shape(x: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], values.shape[1])


class DynamicLinear(nn.Module):
    """A quantized linear whose activations get one scale per call, in ONNX alone: `DynamicQuantizeLinear`."""

    values: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: QuantizedLinear) -> None:
        super().__init__()
        assert layer.values is not None
        self.register_buffer("values", layer.values.t().contiguous())
        self.register_buffer("scale", layer.scale)
        self.register_buffer("bias", layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N]."""
        out = torch.ops.pi0_peers.dynamic_linear(x, self.values, self.scale)
        return out if self.bias is None else out + self.bias


def files_of(peer: str) -> str:
    """Whose files a peer runs."""
    return "openvino-static" if peer == "openvino-engine" else peer


def largest_inputs(model: nn.Module) -> dict[str, Tensor]:
    """A table of the largest magnitude of every channel into every linear, which fills while the model runs."""
    found: dict[str, Tensor] = {}

    def look(path: str, _: nn.Module, given: tuple[Tensor]) -> None:
        amax = given[0].detach().float().flatten(0, -2).abs().amax(0)
        found[path] = torch.maximum(found.get(path, amax), amax)

    for path, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_pre_hook(partial(look, path))
    return found


def filled(config: Pi0Config, scheme: Scheme, amax: Mapping[str, Tensor]) -> Pi0:
    """The network with its random weights, each layer quantized as soon as it is drawn."""
    model = blank_model(config, scheme)
    assert isinstance(model, Pi0)
    for path, layer in list(model.named_modules()):
        own = list(layer.named_parameters(recurse=False))
        for name, blank in own:
            values = draw(f"{path}.{name}" if path else name, blank.shape).to(blank.dtype)
            setattr(layer, name, nn.Parameter(values, requires_grad=False))
        if own:
            quantize_layer(model, path, scheme, amax.get(path))
    return model


def write_peer(peer: str, folder: Path, config: Pi0Config) -> None:
    """Writes both programs of a peer, and what enters them, below its own folder."""
    own = folder / files_of(peer)
    own.mkdir(exist_ok=True)
    kept = load_file(folder / "truth.safetensors")
    model = filled(config, SCHEMES[own.name], load_file(folder / "amax.safetensors"))
    shape = Shape(kept["images"].shape[1], kept["tokens"].shape[1])
    if peer == "onnxruntime-dynamic":
        _make_dynamic(model)
    else:
        write_out_quantization(model, wide=True)
    observation = {"images": kept["images"][0], "words": embed_words(model, kept["tokens"][0])}
    if config.variant == "pi0":
        observation["state"] = kept["state"][0]
    table = conditioning_table(model, euler_times(EULER_STEPS))
    save_file({**observation, "noise": kept["noise"][0], "conditioning": table}, own / "inputs.safetensors")
    for name in input_names(config):
        write_onnx(export_program(model, name, shape), own / f"{name}.onnx", _translations())
    del model
    if peer == "openvino-nncf":
        _quantize_with_nncf(own, input_names(config))


def load_peer(kind: str, folder: Path) -> Callable[[], Tensor]:
    """Compiles both programs of a peer; a call computes one chunk."""
    own = folder / files_of(kind)
    given = load_file(own / "inputs.safetensors")
    observation = tuple(given[name] for name in ("images", "words", "state") if name in given)
    attend_inputs = tuple(name for name in ("images", "words", "state") if name in given)
    attend = _compile(kind, own, "attend", attend_inputs)
    velocity = _compile(kind, own, "velocity", ("x", "conditioning", "keys", "values"))
    times = euler_times(EULER_STEPS)
    return lambda: sample_actions(attend, velocity, observation, given["noise"], given["conditioning"], times)[None]


def _compile(kind: str, own: Path, name: str, inputs: tuple[str, ...]) -> Callable[..., Any]:
    threads = torch.get_num_threads()
    if kind == "onnxruntime-dynamic":
        return _onnxruntime(own / f"{name}.onnx", threads)
    openvino = load_openvino()
    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if kind == "openvino-engine":
        settings = exact_settings(find_device(core, "CPU"), "f32", threads)
    path = own / (f"{name}.xml" if kind == "openvino-nncf" else f"{name}.onnx")
    return CompiledProgram(path, inputs, openvino, core, "CPU", settings)


def _onnxruntime(path: Path, threads: int) -> Callable[..., Any]:
    runtime: Any = importlib.import_module("onnxruntime")  # a peer to compare with, not a requirement
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def call(*arguments: Tensor) -> Any:
        given = {name: value.contiguous().numpy() for name, value in zip(names, arguments, strict=True)}
        outputs = [torch.from_numpy(value) for value in session.run(None, given)]
        return outputs if len(outputs) > 1 else outputs[0]

    return call


def _make_dynamic(model: Pi0) -> None:
    for path, layer in list(model.named_modules()):
        if isinstance(layer, QuantizedLinear):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, DynamicLinear(layer))


def _translations() -> dict[Any, Callable[..., Any]]:
    """What ONNX Runtime's own dynamic quantization writes for a linear."""
    from onnxscript import opset20

    op: Any = opset20  # its annotations are those of ONNX

    def dynamic_linear(x, values, scale):  # noqa: ANN001, ANN202 onnxscript reads annotations as ONNX types
        integers, token_scale, zero = op.DynamicQuantizeLinear(x)
        product = op.MatMulInteger(integers, values, zero)
        return op.Mul(op.Cast(product, to=1), op.Mul(token_scale, scale))

    return {torch.ops.pi0_peers.dynamic_linear.default: dynamic_linear}


def _quantize_with_nncf(own: Path, names: Mapping[str, tuple[str, ...]]) -> None:
    """Both programs in INT8 by NNCF, calibrated on the one observation and the first Euler step."""
    nncf: Any = importlib.import_module("nncf")  # a peer to compare with, not a requirement
    openvino = load_openvino()
    core, given = openvino.Core(), load_file(own / "inputs.safetensors")
    settings = {"PERFORMANCE_HINT": "LATENCY"}
    attend = CompiledProgram(own / "attend.onnx", names["attend"], openvino, core, "CPU", settings)
    given["keys"], given["values"] = attend(*(given[name] for name in names["attend"]))
    del attend
    given |= {"x": given["noise"], "conditioning": given["conditioning"][0]}
    for name, inputs in names.items():
        sample = {each: given[each].contiguous().numpy() for each in inputs}
        model = core.read_model(str(own / f"{name}.onnx"))
        quantized = nncf.quantize(model, nncf.Dataset([sample]), model_type=nncf.ModelType.TRANSFORMER)
        openvino.save_model(quantized, str(own / f"{name}.xml"), compress_to_fp16=False)
