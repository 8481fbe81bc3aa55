"""What the C library makes of the sums of a product: every count of rows, widths that fill no panel, every level."""

import math

import pytest
import torch
from native_levels import LEVELS, used
from torch import Tensor, nn

from pi0_edge.quant import native
from pi0_edge.quant.integer_matmul import NativeMatmul
from pi0_edge.quant.native import Layer, Level, Linear, Stack, pointer

ROWS = (*range(1, 20), 49, 50, 51, 64, 70)
"""Tiles have six rows; the expert has 50."""
WIDTHS = (1, 16, 31, 32, 33, 48, 63, 64, 65, 97, 130)
"""Around registers of 16, panels of 32 and tiles of 64 columns."""


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_product_is_exact_for_every_count_of_rows(level: Level, width: int):
    generator = torch.Generator().manual_seed(width)
    weight = torch.randint(-127, 128, (width, 45), generator=generator, dtype=torch.int8)
    scale = torch.rand(width, generator=generator) + 0.1
    with used(level):
        matmul = NativeMatmul(weight, scale)
        for rows in ROWS:
            tokens = torch.randint(-127, 128, (rows, 45), generator=generator, dtype=torch.int8)
            expected = (tokens.long() @ weight.long().t()).float() * scale
            assert torch.equal(matmul(tokens), expected), rows


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("rows", "width"), [(520, 520), (517, 513), (4100, 66)])
def test_a_result_larger_than_the_caches_is_exact(level: Level, rows: int, width: int):
    """It passes them where rows and columns allow it: aligned or not, with a last panel that is not full."""
    if level == Level.PORTABLE:
        pytest.skip("plain C takes seconds")
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randint(-127, 128, (width, 36), generator=generator, dtype=torch.int8)
    tokens = torch.randint(-127, 128, (rows, 36), generator=generator, dtype=torch.int8)
    scale = torch.rand(width, generator=generator) + 0.1
    assert rows * width > 1 << 18
    with used(level):
        assert torch.equal(NativeMatmul(weight, scale)(tokens), (tokens.long() @ weight.long().t()).float() * scale)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("depth", [4612, 9220, 13827])
def test_a_product_deeper_than_one_piece_is_exact(level: Level, depth: int):
    """Pieces along K are of the same size, and the last one may be shorter."""
    generator = torch.Generator().manual_seed(depth)
    weight = torch.randint(-127, 128, (66, depth), generator=generator, dtype=torch.int8)
    tokens = torch.randint(-127, 128, (13, depth), generator=generator, dtype=torch.int8)
    with used(level):
        found = NativeMatmul(weight, torch.ones(66))(tokens)
    assert torch.equal(found, (tokens.long() @ weight.long().t()).float())


class MLP:
    """A layer of the library whose attention adds nothing: its output is x + down(activation(x))."""

    def __init__(self, width: int, hidden: int, gated: bool) -> None:
        generator = torch.Generator().manual_seed(hidden)
        self.width, self.hidden, self.gated = width, hidden, gated
        self.norm = torch.ones(width)
        self.weights = {
            name: torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)
            for name, shape in (("gate", (hidden, width)), ("up", (hidden, width)), ("down", (width, hidden)))
        }
        self.scales = {name: torch.rand(len(w), generator=generator) * 2e-3 for name, w in self.weights.items()}
        self.biases = {name: torch.randn(len(w), generator=generator) * 0.1 for name, w in self.weights.items()}
        zero = torch.zeros(width, width, dtype=torch.int8)
        self._packed = {name: native.PackedLinear(w, self.scales[name]) for name, w in self.weights.items()}
        self._packed |= {name: native.PackedLinear(zero, torch.ones(width)) for name in "qkvo"}
        self._padded = {name: native.padded(bias) for name, bias in self.biases.items()}

    def __call__(self, x: Tensor) -> Tensor:
        """x float32 [rows, width] through the library; one head, keys and values of its own."""
        out, rows = x.clone(), len(x)
        layer = Layer(attention_norm=self.norm.data_ptr(), mlp_norm=self.norm.data_ptr())
        for name, packed in self._packed.items():
            if name == "up" and not self.gated:
                continue
            linear = Linear.from_buffer_copy(packed.struct)
            if name in self._padded:
                linear.bias = self._padded[name].data_ptr()
            setattr(layer, name, linear)
        library = native.loaded_library()
        size = library.pi0_cache_bytes(rows, self.width)
        keys, values = (torch.zeros(size, dtype=torch.uint8) for _ in range(2))
        layer.keys, layer.values = keys.data_ptr(), values.data_ptr()
        seen, own = torch.zeros(1, dtype=torch.int64), torch.full((1,), rows)
        stack = Stack((Layer * 1)(layer), 1, self.width, 1, 1, self.width)
        stack.x, stack.batch, stack.tokens = pointer(out), 1, rows
        stack.seen, stack.own, stack.capacity = pointer(seen), pointer(own), rows
        assert library.pi0_run_stack(stack) == 1
        return out

    def expected(self, x: Tensor) -> Tensor:
        """The same in float64, with tokens quantized in float32 as the library does, hidden ones from bfloat16."""
        normed = x * (1 / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()).float()
        gate = nn.functional.gelu(self._linear("gate", normed), approximate="tanh")
        hidden = gate * self._linear("up", normed) if self.gated else gate
        largest = hidden.float().abs().amax(-1, keepdim=True)
        return x + self._linear("down", hidden.bfloat16().float(), largest)

    def _linear(self, name: str, x: Tensor, largest: Tensor | None = None) -> Tensor:
        scale = ((x.abs().amax(-1, keepdim=True) if largest is None else largest) / 127).clamp(min=1e-30)
        tokens = (x / scale).round().double()
        product = tokens @ self.weights[name].double().t()
        return product * scale.double() * self.scales[name].double() + self.biases[name].double()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("hidden", [15, 32, 65, 144])
def test_an_mlp_is_that_of_float64(level: Level, gated: bool, hidden: int):
    """Activation, bias, residual and the largest magnitude of each row.

    A value between two steps of INT8 may be rounded either way; one of `hidden` then moves by a 127th of the largest.
    """
    mlp = MLP(40, hidden, gated)
    with used(level):
        for rows in (1, 5, 6, 7, 13, 50):
            x = torch.randn(rows, 40, generator=torch.Generator().manual_seed(rows))
            expected = mlp.expected(x)
            error = (mlp(x) - expected).norm() / (expected - x).norm()
            assert float(error) < 0.03 / math.sqrt(hidden), (rows, float(error))
