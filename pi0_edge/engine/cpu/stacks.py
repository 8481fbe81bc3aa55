"""Vision tower, prefix and action expert as stacks of layers that the C library runs in one call each.

A stack takes the place of the modules whose layers it runs, with the same inputs and outputs:

| stack         | in the place of           | one call is                                                |
|---------------|---------------------------|------------------------------------------------------------|
| `VisionStack` | the layers of `SigLIP`    | all images of the batch                                    |
| `PrefixStack` | `pi0_edge.model.Prefix`   | the prefix up to the keys and values of its last layer     |
| `ExpertStack` | `ActionExpert`            | one Euler step, or the keys and values of the state token  |

INT8 sums are exact. Attention is in INT8 as well (`quant/native/attention.c`), which is why the gate judges this engine
and not the scheme alone. What a row becomes depends neither on the other rows of the batch nor
on the number of threads: padding is left out of the caches instead of being masked.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pi0_edge.engine.cpu.fused_mlp import quantizes_tokens
from pi0_edge.errors import EngineError
from pi0_edge.model import PolicyNetwork
from pi0_edge.model.config import GemmaConfig, VisionConfig
from pi0_edge.model.gemma import KeyValues, RMSNorm, Rotary
from pi0_edge.quant import QuantizationError, native
from pi0_edge.quant.formats import NOT_FINITE
from pi0_edge.quant.native import Layer, Stack, pointer
from pi0_edge.quant.quantized_linear import QuantizedLinear

_Layers = Sequence[nn.Module] | nn.ModuleList
_LINEARS = {
    "q": "attention.q",
    "k": "attention.k",
    "v": "attention.v",
    "o": "attention.o",
    "gate": "mlp.gate",
    "up": "mlp.up",
    "down": "mlp.down",
}
_VISION_LINEARS = {**_LINEARS, "o": "attention.out", "gate": "mlp.fc1", "down": "mlp.fc2"}
del _VISION_LINEARS["up"]
_KEY_VALUE_LINEARS = {name: _LINEARS[name] for name in ("k", "v")}
_NO_MEMORY = "the CPU engine got no memory for one block of tokens; free some, or use smaller batches"
_NORMS = {"attention_norm": "attention_norm", "mlp_norm": "mlp_norm"}
_VISION_NORMS = {"attention_norm": "norm1", "mlp_norm": "norm2"}


def use_stacks(model: PolicyNetwork) -> None:
    """Replaces every part of the model whose layers the C library can run, in place.

    The expert of a network that reads single layers of it, such as RT-2's head, stays as it is.
    """
    if not native.is_compiled() or model.residual_dtype != torch.float32:
        return
    if _fits(model.vision.layers, _VISION_LINEARS):
        model.vision.layers = nn.ModuleList([VisionStack(model.vision.layers, model.config.vision)])
    last = model.prefix.layers[-1:]
    if _fits(model.prefix.layers[:-1], _LINEARS) and _fits(last, _KEY_VALUE_LINEARS):
        model.prefix = cast(nn.Module, PrefixStack(model.prefix.layers, model.config.prefix))  # pyright: ignore
    if model.config.head != "rt2" and _fits(model.expert.layers, _LINEARS):
        model.expert = cast(nn.Module, ExpertStack(model.expert.layers, model.expert.final_norm, model.config.expert))  # pyright: ignore


class VisionStack(nn.Module):
    """All layers of the vision tower; stands where its first one stood."""

    def __init__(self, layers: nn.ModuleList, config: VisionConfig) -> None:
        super().__init__()
        sizes = _Sizes(config.width, config.heads, config.heads, config.width // config.heads)
        self._stack = _Stack(layers, _VISION_LINEARS, _VISION_NORMS, sizes)

    def forward(self, x: Tensor) -> Tensor:
        """[images, tokens, width] -> the same shape.

        Raises:
            QuantizationError: If a value to be quantized becomes NaN or infinite.
        """
        images, tokens, _ = x.shape
        if not images:
            return x
        own = torch.full((images,), tokens)
        return self._stack.run(x, torch.zeros_like(own), own, self._stack.shared_caches(images, tokens))


class PrefixStack(nn.Module):
    """`pi0_edge.model.gemma.Prefix`."""

    def __init__(self, layers: nn.ModuleList, config: GemmaConfig) -> None:
        super().__init__()
        self._stack = _Stack(layers, _LINEARS, _NORMS, _sizes_of(config))

    def forward(self, x: Tensor, key_mask: Tensor | None) -> list[KeyValues]:
        """[batch, tokens, width], left-aligned, with key_mask bool [batch, tokens] -> keys and values of every layer.

        Raises:
            QuantizationError: If a value to be quantized becomes NaN or infinite.
        """
        batch, tokens, _ = x.shape
        rotary = Rotary(torch.arange(tokens)[None], self._stack.sizes.head_dim, torch.float32)
        own = torch.full((batch,), tokens) if key_mask is None else key_mask.sum(1)
        kept = [self._stack.blank_key_values(batch, tokens) for _ in range(self._stack.count)]
        self._stack.run(x, torch.zeros_like(own), own, self._stack.shared_caches(batch, tokens), rotary, kept)
        return kept


@dataclass(frozen=True)
class _Context:
    """The keys and values that a block of action tokens attends to, as the library reads them."""

    layers: list[KeyValues]
    lengths: Tensor
    caches: list[_Cache]
    positions: Tensor
    rotary: Rotary


class ExpertStack(nn.Module):
    """`pi0_edge.model.gemma.ActionExpert`.

    The ten Euler steps attend to the same list of keys and values, which is brought into the library's layout once.
    """

    def __init__(self, layers: nn.ModuleList, final_norm: nn.Module, config: GemmaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self._stack = _Stack(layers, _LINEARS, _NORMS, _sizes_of(config))
        norms = [layer.get_submodule(name) for layer in layers for name in _NORMS]
        self._norms = nn.ModuleList([*norms, final_norm])
        self._context: _Context | None = None

    def norms(self) -> list[nn.Module]:
        """As `ActionExpert.norms`."""
        return list(self._norms)

    def key_values(
        self, x: Tensor, positions: Tensor, seen: list[KeyValues], key_mask: Tensor | None
    ) -> list[KeyValues]:
        """As `ActionExpert.key_values`; what the last layer does after its keys and values is not computed.

        Raises:
            QuantizationError: If a value to be quantized becomes NaN or infinite.
        """
        own = [self._stack.blank_key_values(*x.shape[:2]) for _ in range(self._stack.count)]
        self._run(x, positions, seen, key_mask, None, own)
        return own

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        seen: list[KeyValues],
        key_mask: Tensor | None,
        modulations: list[Tensor] | None,
    ) -> Tensor:
        """As `ActionExpert.forward`.

        Raises:
            QuantizationError: If a value to be quantized becomes NaN or infinite.
        """
        out = self._run(x, positions, seen, key_mask, modulations, None)
        return self._norms[-1](out, None if modulations is None else modulations[-1])[0]

    def _run(
        self,
        x: Tensor,
        positions: Tensor,
        seen: list[KeyValues],
        key_mask: Tensor | None,
        modulations: list[Tensor] | None,
        own: list[KeyValues] | None,
    ) -> Tensor:
        context = self._context
        if context is None or context.layers is not seen or not torch.equal(context.positions, positions):
            context = self._context = self._read(seen, key_mask, positions)
        tokens = torch.full_like(context.lengths, x.shape[1])
        return self._stack.run(x, context.lengths, tokens, context.caches, context.rotary, own, modulations)

    def _read(self, seen: list[KeyValues], key_mask: Tensor | None, positions: Tensor) -> _Context:
        batch, keys = seen[0].keys.shape[:2]
        places, lengths = None, torch.full((batch,), keys)
        if key_mask is not None:
            valid = key_mask[:, :keys]
            places = torch.where(valid, valid.cumsum(1) - 1, -1).contiguous()
            lengths = valid.sum(1)
        capacity = keys + positions.shape[1]
        caches = [self._stack.blank_cache(batch, capacity) for _ in seen]
        for layer, cache in zip(seen, caches, strict=True):
            cache.fill(layer, places)
        return _Context(seen, lengths, caches, positions, Rotary(positions, self.head_dim, torch.float32))


@dataclass(frozen=True)
class _Sizes:
    width: int
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class _Cache:
    """Keys and values of one layer in the library's layout."""

    keys: Tensor
    values: Tensor
    capacity: int

    def fill(self, source: KeyValues, places: Tensor | None) -> None:
        """Stores float32 [batch, tokens, kv_heads, head_dim], token t of row b at `places` [b, t] unless negative.

        Raises:
            EngineError: If there is no memory.
        """
        keys, values = source.keys.contiguous(), source.values.contiguous()
        addresses = map(pointer, (keys, values, places))
        filled = native.loaded_library().pi0_fill_caches(
            *addresses, *keys.shape, self.capacity, pointer(self.keys), pointer(self.values)
        )
        if filled < 0:
            raise EngineError(_NO_MEMORY)


class _Stack:
    """Layers in the form that the library reads, with everything that their addresses point to."""

    def __init__(self, layers: _Layers, linears: dict[str, str], norms: dict[str, str], sizes: _Sizes) -> None:
        self.sizes, self.count = sizes, len(layers)
        self._kept: list[object] = []
        self._layers = (Layer * len(layers))()
        for struct, layer in zip(self._layers, layers, strict=True):
            for field, path in linears.items():
                self._take_linear(struct, field, layer, path)
            for field, name in norms.items():
                self._take_norm(struct, field, getattr(layer, name, None))

    def run(
        self,
        x: Tensor,
        seen: Tensor,
        own: Tensor,
        caches: Sequence[_Cache],
        rotary: Rotary | None = None,
        own_key_values: Sequence[KeyValues] | None = None,
        modulations: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Runs the layers.

        Args:
            x: float32 [batch, tokens, width].
            seen: int64 [batch], keys in the caches.
            own: int64 [batch], how many of the tokens are valid; they are stored behind those.
            caches: One per layer.
            rotary: Of the tokens; None rotates nothing.
            own_key_values: Filled with the keys and values of these tokens, one per layer. The last layer ends with
                them then.
            modulations: One per norm, each [batch or 1, tokens or 1, 3 * width].

        Returns:
            float32 [batch, tokens, width].

        Raises:
            EngineError: If there is no memory.
            QuantizationError: If a value to be quantized becomes NaN or infinite.
        """
        out = x.clone(memory_format=torch.contiguous_format)
        layers = type(self._layers).from_buffer_copy(self._layers)
        modulations = [modulation.contiguous() for modulation in modulations or ()]
        for place, (layer, cache) in enumerate(zip(layers, caches, strict=True)):
            layer.keys, layer.values = cache.keys.data_ptr(), cache.values.data_ptr()
            if own_key_values is not None:
                key_values = own_key_values[place]
                layer.own_keys, layer.own_values = key_values.keys.data_ptr(), key_values.values.data_ptr()
            if modulations:
                layer.attention_modulation = modulations[2 * place].data_ptr()
                layer.mlp_modulation = modulations[2 * place + 1].data_ptr()
        if own_key_values is not None:
            layers[-1].o = native.Linear()
        batch, tokens, width = out.shape
        stack = Stack(layers, self.count, width, self.sizes.heads, self.sizes.kv_heads, self.sizes.head_dim)
        stack.x, stack.batch, stack.tokens = out.data_ptr(), batch, tokens
        stack.seen, stack.own, stack.capacity = seen.data_ptr(), own.data_ptr(), caches[0].capacity
        if rotary is not None:
            stack.cosine, stack.sine = rotary.cos.data_ptr(), rotary.sin.data_ptr()
            stack.rotary_batch_stride = 0 if len(rotary.cos) == 1 else rotary.cos[0].numel()
        if modulations:
            rows, columns = modulations[0].shape[:2]
            stack.modulation_batch_stride = 0 if rows == 1 else columns * 3 * width
            stack.modulation_token_stride = 0 if columns == 1 else 3 * width
        finished = native.loaded_library().pi0_run_stack(ctypes.byref(stack))
        if finished < 0:
            raise EngineError(_NO_MEMORY)
        if not finished:
            raise QuantizationError(NOT_FINITE)
        return out

    def blank_cache(self, batch: int, capacity: int) -> _Cache:
        """An empty cache of one layer."""
        size = batch * self.sizes.kv_heads * native.loaded_library().pi0_cache_bytes(capacity, self.sizes.head_dim)
        return _Cache(torch.empty(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8), capacity)

    def shared_caches(self, batch: int, capacity: int) -> list[_Cache]:
        """The same cache for all layers, where no later block reads it."""
        return [self.blank_cache(batch, capacity)] * self.count

    def blank_key_values(self, batch: int, tokens: int) -> KeyValues:
        """Keys and values of one layer to be filled."""
        shape = (batch, tokens, self.sizes.kv_heads, self.sizes.head_dim)
        return KeyValues(torch.empty(shape), torch.empty(shape))

    def _take_linear(self, struct: Layer, field: str, layer: nn.Module, path: str) -> None:
        packed = _packed(layer, path)
        if packed is None:  # the last layer of the prefix has keys and values alone
            return
        linear = native.Linear.from_buffer_copy(packed.struct)
        bias = cast(QuantizedLinear, layer.get_submodule(path)).bias
        if bias is not None:
            bias = native.padded(bias)
            linear.bias = bias.data_ptr()
        setattr(struct, field, linear)
        self._kept += [packed, bias]

    def _take_norm(self, struct: Layer, field: str, norm: nn.Module | None) -> None:
        tensors = {}
        if isinstance(norm, RMSNorm):
            tensors[field] = 1 + norm.weight.detach().float()
        elif isinstance(norm, nn.LayerNorm):
            tensors = {field: norm.weight.detach().float(), f"{field}_bias": norm.bias.detach().float()}
        for name, tensor in tensors.items():
            self._kept.append(tensor := tensor.contiguous())
            setattr(struct, name, tensor.data_ptr())


def _sizes_of(config: GemmaConfig) -> _Sizes:
    return _Sizes(config.width, config.heads, config.kv_heads, config.head_dim)


def _fits(layers: _Layers, linears: dict[str, str]) -> bool:
    """Whether the library can run all of these layers."""
    return all(_packed(layer, path) is not None for layer in layers for path in linears.values())


def _packed(layer: nn.Module, path: str) -> native.PackedLinear | None:
    """The packed weights of one linear of a layer, with its bias; None where the library cannot run it."""
    try:
        linear = layer.get_submodule(path)
    except AttributeError:
        return None
    if not (quantizes_tokens(linear) and isinstance(linear, QuantizedLinear)) or linear.rotation:
        return None
    return linear.packed
