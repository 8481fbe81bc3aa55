"""π0 as the sequence of kernels that one CUDA graph holds.

Every kernel is an operator with an implementation for the CPU, so the very same sequence runs there, slowly: that is
how it is compared with the reference where there is no GPU. Three calls make a chunk:

    patch_rows  images -> rows of the patch embedding                      once, before the graph
    attend      rows and prompt -> keys and values of every layer          once
    integrate   state and noise -> actions, in place                       all Euler steps

The state's token passes through the expert with the actions of the first Euler step: a product of 51 rows reads the
weights once, as one of 50 does, and a pass of its own would read all of them for one row.

Nothing depends on the values that pass through: the sequence is fixed by (cameras, places for tokens, steps). A prompt
that is shorter than its places leaves rows behind it that are computed and never read: how many keys there are is an
integer on the device (`Cache.lengths`), and the state follows the last token of the prompt wherever that is. What
depends on time alone is computed once, as tables with a row per Euler step; frozen actions are at time 0 in every step,
and their rows stand beside those of the others (`kernels.rows`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pi0_edge.engine.cuda.fp8_linears import MOST_ROWS
from pi0_edge.engine.cuda.linear_interface import Linear, Norm, Rows
from pi0_edge.engine.cuda.linears import add_and_norm, defer_bias, join_linears, multiply_and_quantize
from pi0_edge.engine.cuda.recent import Recent
from pi0_edge.engine.cuda.steering import Steering
from pi0_edge.errors import EngineError
from pi0_edge.kernels.attention import ORIN_L2_BYTES, SHARE_AHEAD, attention, rope_attention
from pi0_edge.kernels.euler_step import embed_actions, euler_update, fold_front, pad_front
from pi0_edge.kernels.gemm import BYTES_AHEAD
from pi0_edge.kernels.gemm_epilogue import Epilogue
from pi0_edge.kernels.patches import ResizePlan, patches, resize_plan
from pi0_edge.kernels.rope import rope, rope_table
from pi0_edge.model import Pi0
from pi0_edge.model.gemma import ActionExpert, GemmaLayer, KeyValueLayer, Prefix, RMSNorm
from pi0_edge.model.siglip import VisionLayer
from pi0_edge.quant.quantized_linear import QuantizedEmbedding


@dataclass(frozen=True, eq=False)
class StepTables:
    """What the Euler loop reads besides weights of the expert; equal only to itself.

    Attributes:
        times: Of the steps.
        front: float32 [width, action_dim padded], folded.
        biases: float32 [steps, 2, width].
        norms: Per step, the norms of the layers in the order of `ActionExpert.norms`.
        final_norms: Per step, the one behind the layers; of this step alone, as frozen actions do not move.
    """

    times: tuple[float, ...]
    front: Tensor
    biases: Tensor
    norms: list[list[Norm]]
    final_norms: list[Norm]

    @property
    def steps(self) -> int:
        """Of the loop."""
        return len(self.biases)


@torch.inference_mode()
def step_tables(model: Pi0, times: Tensor, device: torch.device) -> StepTables:
    """The tables of a network for `times` [steps]; computed on the CPU in float32 and float64."""
    conditioning, steps = model.condition(F.pad(times.cpu(), (0, 1))), range(len(times))  # time 0 comes last
    project = model.action_in_proj
    if conditioning.time_bias is not None:
        mlp_in = model.action_time_mlp_in.weight.float()
        front, biases = fold_front(
            project.weight.float(), project.bias.float(), mlp_in, conditioning.time_bias[:, 0].float()
        )
    else:
        front, biases = project.weight.float(), project.bias.float().expand(len(times) + 1, -1)
    biases = torch.stack([biases[[step, -1]] for step in steps])
    if conditioning.modulations is None:
        *norms, final = [plain_norm(norm, device) for norm in model.expert.norms()]
        per_step, final_norms = [norms for _ in steps], [final for _ in steps]
    else:
        *tables, last = [table[:, 0] for table in conditioning.modulations]
        per_step = [[_adaptive_norm(table[[step, -1]], device) for table in tables] for step in steps]
        final_norms = [_adaptive_norm(last[step], device) for step in steps]
    padded = pad_front(front).to(device)
    return StepTables(tuple(times.tolist()), padded, biases.to(device), per_step, final_norms)


def plain_norm(norm: torch.nn.Module, device: torch.device, offset: Tensor | None = None) -> Norm:
    """An RMSNorm, or a LayerNorm of a stream that lacks the offset."""
    if isinstance(norm, RMSNorm):
        return Norm((1 + norm.weight.detach().float()).to(device))
    weight, bias = (norm.get_parameter(name).detach().float().to(device) for name in ("weight", "bias"))
    return Norm(weight, bias, centred=True, offset=offset)


def _adaptive_norm(modulation: Tensor, device: torch.device) -> Norm:
    scale, shift, gate = (part.float().to(device).contiguous() for part in modulation.chunk(3, dim=-1))
    return Norm(1 + scale, shift, gate)


POSITIONS = MOST_ROWS
"""Rows of the table of rotary positions: more cameras than any robot has."""
ACTION_STREAM = torch.float32
"""The stream of action tokens between layers. It is small, and ten steps add up what it rounds."""
IMAGE_SIZES = 16
"""Sizes of camera images whose resize plans are kept."""


@dataclass(frozen=True)
class Layer:
    """One transformer layer: products, and norms where they do not change with time."""

    qkv: Linear
    out: Linear
    up: Linear
    down: Linear
    norms: tuple[Norm, Norm] | None


@dataclass(frozen=True)
class Cache:
    """Keys and values that the action tokens find.

    Attributes:
        keys: [layers, rows, kv_heads, head_dim]: images, prompt, the state's (π0), and what a longer prompt would take.
        values: As keys.
        lengths: int32 [2], the rows of images and prompt, and those with the state's.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor

    @property
    def prefix_length(self) -> Tensor:
        """int32 [1]."""
        return self.lengths[:1]

    @property
    def length(self) -> Tensor:
        """int32 [1]."""
        return self.lengths[1:]

    def copy_(self, other: Cache) -> None:
        """Takes over all of another one of this shape."""
        self.keys.copy_(other.keys)
        self.values.copy_(other.values)
        self.lengths.copy_(other.lengths)


class CudaNetwork:
    """The weights of a network on its device, and the calls of the module."""

    def __init__(self, model: Pi0, device: torch.device | str, dtype: torch.dtype = torch.bfloat16) -> None:
        """Takes the weights out of `model`, layer by layer: only what depends on time alone stays there.

        Args:
            model: Quantized, not packed.
            device: Where the network will run.
            dtype: Of activations; float32 on a CPU only, to compare the sequence itself.

        Raises:
            EngineError: If a layer is quantized in a way that there are no kernels for, or packed for the CPU.
        """
        _check_layers(model)
        self.config, self.dtype, self.device = model.config, dtype, torch.device(device)
        self.state = _on(self.device, model.state_proj) if model.config.variant == "pi0" else None
        self.action_out = _on(self.device, model.action_out_proj)
        self.mlp_out = None
        if model.config.variant == "pi0":
            weight, bias = _on(self.device, model.action_time_mlp_out)
            self.mlp_out = (weight.to(dtype), bias)
        self._resize_plans: Recent[tuple[int, int], ResizePlan] = Recent(IMAGE_SIZES)
        self.table = rope_table(POSITIONS, model.config.prefix.head_dim, self.device)
        on_gpu = self.device.type == "cuda"
        l2_bytes = torch.cuda.get_device_properties(self.device).L2_cache_size if on_gpu else ORIN_L2_BYTES
        self._bytes_ahead = int(SHARE_AHEAD * l2_bytes)
        self._take_vision(model)
        self._take_prefix(model)
        self.expert = [self._gemma_layer(layer, many_rows=False) for layer in model.expert.layers]
        for layer in model.expert.layers:
            del layer.attention, layer.mlp

    def blank_cache(self, cameras: int, tokens: int) -> Cache:
        """Memory for the keys and values of so many cameras and up to so many prompt tokens, and of the state (π0).

        Raises:
            EngineError: If there are more tokens than positions.
        """
        sizes, length = self.config.prefix, cameras * self.config.vision.tokens + tokens
        if length + 1 + self.config.horizon > POSITIONS:
            raise EngineError(f"a prefix of {length} tokens is too long; expected at most {POSITIONS}")
        shape = (2, sizes.depth, length + (self.state is not None), sizes.kv_heads, sizes.head_dim)
        keys, values = torch.zeros(shape, dtype=self.dtype, device=self.device).unbind(0)
        return Cache(keys, values, self.lengths(cameras, tokens).to(self.device))

    def lengths(self, cameras: int, tokens: int) -> Tensor:
        """`Cache.lengths` of so many cameras and prompt tokens, on the CPU."""
        prefix = cameras * self.config.vision.tokens + tokens
        return torch.tensor([prefix, prefix + (self.state is not None)], dtype=torch.int32)

    def patch_rows(self, images: Tensor) -> Tensor:
        """Rows of the patch embedding in the order of their tokens, float32 [cameras, tokens, 3 * patch * patch].

        Args:
            images: On the device; uint8 frames [cameras, height, width, 3] of any size, or float32
                [cameras, 3, size, size] in [-1, 1].
        """
        side, patch = self.config.vision.image_size, self.config.vision.patch_size
        if images.dtype == torch.uint8:
            height, width = images.shape[1:3]
            plan = self._resize_plans.get((height, width), lambda: resize_plan(height, width, side, self.device))
            return patches(images, **vars(plan), patch=patch)
        cut = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch)).permute(0, 2, 4, 1, 3, 5)
        return cut.flatten(3).flatten(1, 2)

    def attend(self, patch_rows: Tensor, tokens: Tensor, cache: Cache) -> None:
        """Puts keys and values of images and prompt into a cache, whose `lengths` say how many tokens there are.

        Args:
            patch_rows: From `patch_rows`.
            tokens: int64, as many as the cache has places for; any behind the last of the prompt.
            cache: From `blank_cache`.
        """
        seen = self._vision(patch_rows)
        words = self._embed(tokens) * math.sqrt(self.config.prefix.width)
        x = torch.cat((seen, words.to(self.dtype)))
        for i, layer in enumerate(self.prefix):
            x = self._attend_layer(layer, x, cache, i, cache.prefix_length)
        last = self.last_kv.norm_and_quantize(x, self.last_norm)
        rope(self.last_kv(last, Epilogue(self.dtype)), self.table, cache.keys[-1], cache.values[-1], 0)

    def integrate(
        self,
        x: Tensor,
        state: Tensor,
        cache: Cache,
        tables: StepTables,
        frozen: Tensor,
        steering: Steering | None = None,
    ) -> None:
        """All Euler steps, in place on x: float32 [horizon, action_dim], noise that becomes actions.

        Args:
            x: The noise, behind the frozen actions.
            state: float32 [action_dim]; π0.5 has it in its prompt.
            cache: Of the prefix; the first step puts the state's token into the row behind it.
            tables: Of the times of the steps.
            frozen: How many actions at the beginning stay as they are, int32 [1]; the network sees them at time 0.
            steering: What the chunk continues; it corrects the step that the kernel took.
        """
        out_weight, out_bias = self.mlp_out or (None, None)
        of_norms = frozen if self.config.variant == "pi05" else None
        for step in range(tables.steps):
            norms, last = tables.norms[step], tables.final_norms[step]
            hidden = embed_actions(x, tables.front, tables.biases[step], frozen, out_weight, out_bias, ACTION_STREAM)
            states = 0
            if step == 0 and self.state is not None:
                token = F.linear(state[None], *self.state).to(ACTION_STREAM)
                hidden, states = torch.cat((token, hidden)), 1
            hidden = self._expert(hidden, norms, of_norms, cache, states)[states:]
            before = None if steering is None else x.clone()
            euler_update(x, hidden, frozen, last.scale, last.shift, *self.action_out, -1.0 / tables.steps)
            if steering is not None and before is not None:
                steering.correct(before, x, step, tables.times)

    def _expert(self, x: Tensor, norms: list[Norm], frozen: Tensor | None, cache: Cache, states: int) -> Tensor:
        """The layers of the expert over tokens [states + horizon, width]: five launches each with 8-bit weights.

        The first `states` tokens are the state's. `frozen` is there where the norms are adaptive: seven launches then.
        """
        rows = self.expert[0].qkv.norm_and_quantize(x, norms[0], frozen)
        for i, layer in enumerate(self.expert):
            first, second = norms[2 * i], norms[2 * i + 1]
            mixed = layer.out.quantize_input(self._mix_actions(i, rows, cache, states))
            behind_mixing = Epilogue(x.dtype, gate=first.gate, frozen=frozen, residual=x)
            x, rows = add_and_norm(layer.out, mixed, behind_mixing, second, layer.up, self._ahead_of_up(layer))
            hidden = layer.up(rows, Epilogue(self.dtype, "geglu"), _part(layer.down.weights, 0, BYTES_AHEAD))
            hidden = layer.down.quantize_input(hidden)
            behind_mlp = Epilogue(x.dtype, gate=second.gate, frozen=frozen, residual=x)
            if i + 1 == len(self.expert):
                return layer.down(hidden, behind_mlp)
            reader = self.expert[i + 1].qkv
            ahead = _part(reader.weights, 0, BYTES_AHEAD)
            x, rows = add_and_norm(layer.down, hidden, behind_mlp, norms[2 * i + 2], reader, ahead)
        return x

    def _mix_actions(self, i: int, rows: Rows, cache: Cache, states: int) -> Tensor:
        """Attention of layer i of the expert: [tokens, heads * head_dim]. The L2 cache is asked for `out` and `up`."""
        layer = self.expert[i]
        qkv = layer.qkv(rows, Epilogue(self.dtype))
        seen = cache.prefix_length if states else cache.length
        out, up = layer.out.weights, layer.up.weights
        ahead = _part(out, 0, self._bytes_ahead), _part(up, 0, self._bytes_ahead - out.nbytes)
        return rope_attention(qkv, self.table, cache.keys[i], cache.values[i], seen, states, *ahead).flatten(1)

    def _ahead_of_up(self, layer: Layer) -> Tensor:
        """What `out` asks for when half of its weights are read: as much of `up`, behind what attention asked for."""
        return _part(layer.up.weights, self._bytes_ahead - layer.out.weights.nbytes, layer.out.weights.nbytes // 2)

    def _attend_layer(self, layer: Layer, x: Tensor, cache: Cache, i: int, seen: Tensor) -> Tensor:
        """Layer i over tokens [tokens, width], which see each other: the first `seen` keys of the cache."""
        keys, values = cache.keys[i], cache.values[i]
        first, second = cast("tuple[Norm, Norm]", layer.norms)
        qkv = layer.qkv(layer.qkv.norm_and_quantize(x, first), Epilogue(self.dtype))
        q = rope(qkv, self.table, keys, values, 0)
        mixed = attention(q[None], keys[None], values[None], seen)[0].flatten(1)
        x = layer.out(layer.out.quantize_input(mixed), Epilogue(x.dtype, residual=x))
        return self._mlp(layer, x, second, "geglu")

    def _mlp(self, layer: Layer, x: Tensor, before: Norm, activation: str) -> Tensor:
        rows = layer.up.norm_and_quantize(x, before)
        hidden = multiply_and_quantize(layer.up, rows, Epilogue(self.dtype, activation), layer.down)
        return layer.down(hidden, Epilogue(x.dtype, residual=x))

    def _vision(self, patch_rows: Tensor) -> Tensor:
        """Image tokens of all cameras, [cameras * tokens, prefix width]."""
        vision, cameras = self.config.vision, len(patch_rows)
        x = (F.linear(patch_rows, *self.patch) + self.positions).flatten(0, 1).to(self.dtype)
        for layer in self.vision:
            before, between = cast("tuple[Norm, Norm]", layer.norms)
            qkv = layer.qkv(layer.qkv.norm_and_quantize(x, before), Epilogue(self.dtype))
            q, k, v = qkv.view(cameras, vision.tokens, 3, vision.heads, -1).unbind(2)
            mixed = attention(q, k, v).view(len(x), -1)
            x = layer.out(layer.out.quantize_input(mixed), Epilogue(x.dtype, residual=x))
            x = self._mlp(layer, x, between, "gelu")
        return self.projector(self.projector.norm_and_quantize(x, self.vision_norm), Epilogue(self.dtype))

    def _embed(self, tokens: Tensor) -> Tensor:
        """Token embeddings [tokens, prefix width], float32 or 16 bits."""
        rows = self.embedding[tokens]
        return rows if self.embedding_scale is None else rows.float() * self.embedding_scale[tokens][:, None]

    def _take_vision(self, model: Pi0) -> None:
        tower, to = model.vision, self.device
        weight, bias = _on(to, tower.patch_embedding)
        self.patch = (weight.flatten(1), bias)
        self.positions = tower.position_embedding.detach().float().to(to)
        self.vision, offset = [], None
        for module in tower.layers:
            layer, offset = self._vision_layer(module, offset)
            self.vision.append(layer)
        self.vision_norm = plain_norm(tower.final_norm, to, offset)
        self.projector = join_linears([model.projector], to, self.dtype, many_rows=True)
        del model.vision, model.projector

    def _take_prefix(self, model: Pi0) -> None:
        embedding = model.token_embedding
        quantized = isinstance(embedding, QuantizedEmbedding)
        self.embedding = (embedding.values if quantized else embedding.weight.detach()).to(self.device)
        self.embedding_scale = embedding.scale.to(self.device) if quantized else None
        layers = list(model.prefix.layers)
        self.prefix = [self._gemma_layer(layer, many_rows=True) for layer in layers[:-1]]
        last = cast(KeyValueLayer, layers[-1])
        self.last_kv = join_linears([last.attention.k, last.attention.v], self.device, self.dtype, many_rows=True)
        self.last_norm = plain_norm(last.attention_norm, self.device)
        del model.prefix, model.token_embedding

    def _gemma_layer(self, module: nn.Module, many_rows: bool) -> Layer:
        layer, to = cast(GemmaLayer, module), self.device
        own, mlp = layer.attention, layer.mlp
        adaptive = hasattr(layer.attention_norm, "modulation")
        return Layer(
            join_linears([own.q, own.k, own.v], to, self.dtype, many_rows=many_rows),
            join_linears([own.o], to, self.dtype, many_rows=many_rows),
            join_linears([mlp.gate, mlp.up], to, self.dtype, gate_and_up=True, many_rows=many_rows),
            join_linears([mlp.down], to, self.dtype, many_rows=many_rows),
            None if adaptive else (plain_norm(layer.attention_norm, to), plain_norm(layer.mlp_norm, to)),
        )

    def _vision_layer(self, module: nn.Module, offset: Tensor | None) -> tuple[Layer, Tensor | None]:
        """A layer of a stream that lacks the offset, and what the stream lacks behind it; see `defer_bias`."""
        layer, to = cast(VisionLayer, module), self.device
        own, mlp = layer.attention, layer.mlp
        out, between = defer_bias(join_linears([own.out], to, self.dtype, many_rows=True), offset)
        down, behind = defer_bias(join_linears([mlp.fc2], to, self.dtype, many_rows=True), between)
        qkv = join_linears([own.q, own.k, own.v], to, self.dtype, many_rows=True)
        up = join_linears([mlp.fc1], to, self.dtype, many_rows=True)
        norms = plain_norm(layer.norm1, to, offset), plain_norm(layer.norm2, to, between)
        return Layer(qkv, out, up, down, norms), behind


def _part(tensor: Tensor, first: int, size: int) -> Tensor:
    """`size` bytes of a contiguous tensor from byte `first` on, as far as they are there: uint8."""
    return tensor.flatten().view(torch.uint8)[max(first, 0) :][: max(size, 0)]


def _on(device: torch.device, linear: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias in float32 on the device."""
    return linear.get_parameter("weight").detach().float().to(device), linear.get_parameter("bias").detach().float().to(
        device
    )


def _check_layers(model: Pi0) -> None:
    """The CPU engine puts stacks of packed layers in the place of these."""
    kinds = [
        (model.prefix, Prefix),
        (model.expert, ActionExpert),
        *((layer, VisionLayer) for layer in model.vision.layers),
    ]
    if any(not isinstance(part, kind) for part, kind in kinds):
        raise EngineError("the weights were packed for the CPU; the CUDA engine needs them as the bundle holds them")
