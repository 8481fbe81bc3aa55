"""What the engines share that run the two programs of `pi0_edge.tensorrt.programs`, whoever compiles these.

There is a pair of programs for every number of cameras and of prompt tokens. Rows of a batch are run one after the
other, the Euler loop is torch's, and a chunk can be guided between its steps.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from pi0_edge.engine.engine import Engine
from pi0_edge.errors import EngineError
from pi0_edge.model import Continuation, ModelInputs, Pi0
from pi0_edge.model.rtc import Guidance
from pi0_edge.tensorrt.programs import (
    Attend,
    Shape,
    Velocity,
    conditioning_table,
    embed_words,
    sample_actions,
)


class ProgramsEngine(Engine):
    """An engine of two programs per shape.

    Attributes:
        maker: What compiles the programs, as messages call it.
    """

    maker: str
    has_frozen_prefix = False
    _model: Pi0
    _device: torch.device
    _tables: dict[tuple[float, ...], Tensor]

    @abstractmethod
    def programs(self, shape: Shape) -> tuple[Attend, Velocity]:
        """`attend` and `velocity` for a shape, compiled now where they are not yet."""

    @torch.inference_mode()
    def infer(self, inputs: ModelInputs, noise: Tensor, continuation: Continuation | None = None) -> Tensor:
        """As `Engine`. Rows of a batch are run one after the other: a robot has one.

        Raises:
            EngineError: If an action is NaN or infinite, or the continuation is not guidance.
        """
        if continuation is not None and not isinstance(continuation, Guidance):
            raise EngineError(
                f'the {self.maker} engine continues a chunk by guidance (splice rtc) only; use that, or engine="cpu"'
            )
        rows = [self._infer_row(inputs, row, noise[row], continuation) for row in range(inputs.batch)]
        actions = torch.stack(rows).cpu()
        if not torch.isfinite(actions).all():
            raise EngineError("the network's actions contain NaN or infinity; check the observation, then the weights")
        return actions

    def _conditioning(self) -> Tensor:
        times = tuple(self.times.tolist())
        if times not in self._tables:
            self._tables[times] = conditioning_table(self._model, self.times).to(self._device)
        return self._tables[times]

    def _infer_row(self, inputs: ModelInputs, row: int, noise: Tensor, guidance: Guidance | None) -> Tensor:
        images, tokens = inputs.images[row][inputs.image_mask[row]], inputs.tokens[row][inputs.token_mask[row]]
        observation = (images, embed_words(self._model, tokens))
        if self.config.variant == "pi0":
            observation = (*observation, inputs.state[row])
        if guidance is not None:
            previous = guidance.previous.squeeze(0).to(self._device)
            guidance = Guidance(previous, guidance.weights.to(self._device), guidance.max_weight)
        attend, velocity = self.programs(Shape(len(images), len(tokens)))
        x = noise.to(self._device)
        return sample_actions(attend, velocity, observation, x, self._conditioning(), self.times, guidance)
