"""A π0 of any size with random weights, drawn parameter by parameter: the same numbers in every process.

Each parameter has a generator of its own, seeded by its name, so that it can be drawn alone and in any order.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pi0_edge.engine.loading import blank_model
from pi0_edge.model import ModelInputs, Pi0Config
from pi0_edge.quant import Scheme, blank_quantized, quantize_layer


def draw(name: str, shape: torch.Size) -> Tensor:
    """float32: matrices of standard deviation 1/sqrt(fan in), zeros elsewhere."""
    if len(shape) < 2:
        return torch.zeros(shape)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator).mul_(shape[1:].numel() ** -0.5)


def random_parameters(config: Pi0Config) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of the network, float32."""
    for name, blank in blank_model(config).named_parameters():
        yield name, draw(name, blank.shape)


class QuantizedNetwork(Mapping[str, Tensor]):
    """The tensors of the network under a scheme without calibration; each is computed when it is asked for, once."""

    def __init__(self, config: Pi0Config, scheme: Scheme) -> None:
        self._scheme = scheme
        self._model = blank_model(config, scheme)
        quantized = blank_model(config, scheme)
        blank_quantized(quantized, scheme)
        self._names = list(quantized.state_dict())
        self._path, self._tensors = "", dict[str, Tensor]()

    def __getitem__(self, name: str) -> Tensor:
        path = name.rpartition(".")[0]
        if path != self._path:
            self._path, self._tensors = path, self._quantized(path)
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _quantized(self, path: str) -> dict[str, Tensor]:
        layer = self._model.get_submodule(path)
        for name, blank in list(layer.named_parameters(recurse=False)):
            values = draw(f"{path}.{name}", blank.shape).to(blank.dtype)
            setattr(layer, name, nn.Parameter(values, requires_grad=False))
        quantize_layer(self._model, path, self._scheme)
        layer = self._model.get_submodule(path)
        own = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
        tensors = {f"{path}.{name}": tensor.detach() for name, tensor in own}
        layer.to("meta")
        return tensors


def random_observation(config: Pi0Config, cameras: int, tokens: int) -> tuple[ModelInputs, Tensor]:
    """One observation and the noise of its chunk."""
    generator = torch.Generator().manual_seed(1)
    size = config.vision.image_size
    inputs = ModelInputs(
        images=torch.rand(1, cameras, 3, size, size, generator=generator) * 2 - 1,
        image_mask=torch.ones(1, cameras, dtype=torch.bool),
        tokens=torch.randint(config.vocab_size, (1, tokens), generator=generator),
        token_mask=torch.ones(1, tokens, dtype=torch.bool),
        state=torch.randn(1, config.action_dim, generator=generator),
    )
    return inputs, torch.randn(1, config.horizon, config.action_dim, generator=generator)


def memory(field: str) -> float:
    """GB of this process: `VmRSS` now, `VmHWM` at its peak. Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise RuntimeError(f"/proc/self/status has no {field}")
