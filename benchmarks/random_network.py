"""A π0 of any size with random weights under any scheme, quantized parameter by parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from pi0_edge.bench.random_weights import draw
from pi0_edge.engine.loading import blank_model
from pi0_edge.model import Pi0Config
from pi0_edge.quant import Scheme, blank_quantized, quantize_layer


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


def memory(field: str) -> float:
    """GB of this process: `VmRSS` now, `VmHWM` at its peak. Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise RuntimeError(f"/proc/self/status has no {field}")
