"""Networks that the tests of the TensorRT programs share, small and under any scheme."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache, partial

import torch
from golden_vectors import load_golden
from torch import Tensor, nn

from pi0_edge.engine import build_engine
from pi0_edge.engine.cpu import CpuEngine
from pi0_edge.engine.loading import blank_model
from pi0_edge.model import PRESETS, ModelInputs, Pi0
from pi0_edge.model.flow import EULER_STEPS, euler_times
from pi0_edge.model.precision import apply_bf16_policy
from pi0_edge.quant import QuantizedLinear, Rule, blank_quantized, find_scheme, quantize_model
from pi0_edge.tensorrt.programs import (
    Program,
    Shape,
    conditioning_table,
    embed_words,
    export_program,
    input_names,
    sample_actions,
)
from pi0_edge.tensorrt.qdq import ExplicitLinear, write_out_quantization

TIMES = euler_times(EULER_STEPS)


@dataclass(frozen=True)
class Case:
    """One network under one scheme, with one observation.

    Attributes:
        model: With its quantization written out.
        observation: As `AttendProgram` takes it.
        noise: float32 [horizon, action_dim].
        shape: Of the observation.
        truth: Actions of the reference engine, in fp32.
        cpu: Actions of the CPU engine under the same scheme.
    """

    model: Pi0
    observation: tuple[Tensor, ...]
    noise: Tensor
    shape: Shape
    truth: Tensor
    cpu: Tensor

    @cache  # noqa: B019 a case lives as long as the tests
    def program(self, name: str) -> Program:
        """Exported for the shape of the observation."""
        return export_program(self.model, name, self.shape)

    @torch.inference_mode()
    def actions(self, times: Tensor = TIMES) -> Tensor:
        """What torch makes of the exported programs."""
        attend, velocity = (self.program(name).exported.module() for name in input_names(self.model.config))
        table = conditioning_table(self.model, times)
        return sample_actions(attend, velocity, self.observation, self.noise, table, times)


@cache
def make_case(variant: str, scheme_name: str) -> Case:
    """The golden network of a variant, and the first of its observations without what is masked there."""
    golden, scheme = load_golden(variant), find_scheme(scheme_name)
    model, inputs, noise = golden.model, first_row(golden.recording.inputs), golden.recording.noise[:1]
    truth = build_engine("reference", copy.deepcopy(model)).infer(inputs, noise)
    amax = largest_inputs(model, inputs, noise) if scheme.needs_calibration else None
    if scheme.rest == "bf16":
        apply_bf16_policy(model)
    quantize_model(model, scheme, amax)
    cpu = CpuEngine(copy.deepcopy(model), scheme).infer(inputs, noise)
    write_out_quantization(model)
    images, tokens = inputs.images[0], inputs.tokens[0]
    observation = (images, embed_words(model, tokens), inputs.state[0])
    names = input_names(model.config)["attend"]
    return Case(model, observation[: len(names)], noise[0], Shape(len(images), len(tokens)), truth[0], cpu[0])


def product_program(rule: Rule | None, side: int) -> Program:
    """One linear of side × side as a program, quantized by the rule: its weights are most of the plan."""
    torch.manual_seed(0)
    linear, x = nn.Linear(side, side).eval(), torch.zeros(51, side)
    module = linear if rule is None else ExplicitLinear(QuantizedLinear.of(linear, rule, 4.0))
    with torch.no_grad():
        return Program("product", torch.export.export(module, (x,)), (x,), ("x",), ("y",))


def full_size_velocity(scheme_name: str) -> Program:
    """The action expert of the full-size π0 with random INT8 weights, 311 MB; nothing else of it has memory."""
    scheme, random = find_scheme(scheme_name), torch.Generator().manual_seed(0)
    model = blank_model(PRESETS["pi0"], scheme)
    assert isinstance(model, Pi0)
    blank_quantized(model, scheme)
    for path, module in model.named_modules():
        if path.startswith(("expert", "action")):
            module.to_empty(device="cpu", recurse=False)
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if tensor.dtype == torch.int8:
                    tensor.random_(-127, 128, generator=random)
                else:
                    tensor.detach().uniform_(1e-4, 1e-3, generator=random)
    return export_program(write_out_quantization(model), "velocity", Shape(2, 20))


def first_row(inputs: ModelInputs) -> ModelInputs:
    """One observation with nothing masked."""
    cameras, words = inputs.image_mask[0], inputs.token_mask[0]
    images, tokens = inputs.images[:1, cameras], inputs.tokens[:1, words]
    there = torch.ones(1, images.shape[1], dtype=torch.bool), torch.ones(1, tokens.shape[1], dtype=torch.bool)
    return ModelInputs(images, there[0], tokens, there[1], inputs.state[:1])


def largest_inputs(model: Pi0, inputs: ModelInputs, noise: Tensor) -> dict[str, Tensor]:
    """What calibration on this one observation gives: the largest magnitude of every channel into every linear."""
    found: dict[str, Tensor] = {}

    def look(path: str, _: nn.Module, given: tuple[Tensor]) -> None:
        amax = given[0].detach().flatten(0, -2).abs().amax(0)
        found[path] = torch.maximum(found.get(path, amax), amax)

    watched = copy.deepcopy(model)
    for path, layer in watched.named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_pre_hook(partial(look, path))
    build_engine("reference", watched).infer(inputs, noise)
    return found
