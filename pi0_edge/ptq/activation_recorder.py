"""Records statistics of what enters every linear of a network, frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pi0_edge.errors import QuantizationError
from pi0_edge.model import Pi0, PolicyNetwork
from pi0_edge.quant.activation_statistics import ActivationStatistics


@dataclass(frozen=True, eq=False)
class LayerRecord:
    """What entered one linear.

    Attributes:
        statistics: Of all its tokens.
        step_amax: float32 [steps], largest magnitude in each Euler step; zeros for layers outside the Euler loop.
    """

    statistics: ActivationStatistics
    step_amax: Tensor

    def merged(self, other: LayerRecord) -> LayerRecord:
        """The records of both together."""
        return LayerRecord(self.statistics.merged(other.statistics), torch.maximum(self.step_amax, other.step_amax))


class ActivationRecorder:
    """Statistics of whole frames: an interrupted frame is left out."""

    def __init__(self, steps: int, frames: int = 0, layers: dict[str, LayerRecord] | None = None) -> None:
        """Starts with nothing, or with the frames of an earlier recorder."""
        self._done = frames, layers or {}
        self._steps = steps
        self._frame: dict[str, LayerRecord] = {}
        self._step = -1  # of the Euler loop; -1 before it
        self._last: tuple[Tensor, ActivationStatistics] | None = None

    @property
    def frames(self) -> int:
        """How many frames have ended."""
        return self._done[0]

    @property
    def layers(self) -> dict[str, LayerRecord]:
        """By module path, in the order in which the network runs them; linears that never ran are absent."""
        return self._done[1]

    @contextmanager
    def recording(self, model: PolicyNetwork) -> Iterator[None]:
        """Records the activations of `model` inside the context.

        Raises:
            QuantizationError: From inside, where an activation is NaN or infinite, naming the layer.
        """
        # Every Euler step begins with the noisy chunk that enters the projection; other heads are one step as a whole.
        first = model.action_in_proj if isinstance(model, Pi0) else model.prefix
        handles = [first.register_forward_pre_hook(self._next_step)]
        for path, module in model.named_modules():
            if isinstance(module, nn.Linear):
                handles.append(module.register_forward_pre_hook(self._hook(path)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def start_frame(self) -> None:
        """Call before the network answers an observation."""
        self._frame, self._step, self._last = {}, -1, None

    def end_frame(self) -> None:
        """Call when the network has answered; only now the frame counts."""
        merged = dict(self.layers)
        for path, record in self._frame.items():
            merged[path] = merged[path].merged(record) if path in merged else record
        self._done = self.frames + 1, merged  # at once, so that Ctrl-C finds all of a frame or none of it

    def _next_step(self, *_: object) -> None:
        self._step += 1

    def _hook(self, path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def record_input(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            statistics = self._statistics(path, inputs[0])
            step_amax = torch.zeros(self._steps)
            if self._step >= 0:
                step_amax[self._step] = statistics.amax
            record = LayerRecord(statistics, step_amax)
            self._frame[path] = self._frame[path].merged(record) if path in self._frame else record

        return record_input

    def _statistics(self, path: str, x: Tensor) -> ActivationStatistics:
        """Statistics of x; query, key and value (and gate and up) share one input, which is measured once."""
        if self._last is None or self._last[0] is not x:
            try:
                self._last = x, ActivationStatistics.of(x)
            except ValueError as error:
                where = "before the Euler loop" if self._step < 0 else f"in Euler step {self._step}"
                raise QuantizationError(
                    f"the activations that enter {path} {where} of frame {self.frames}: {error}; "
                    "check the weights of the checkpoint"
                ) from error
        return self._last[1]
