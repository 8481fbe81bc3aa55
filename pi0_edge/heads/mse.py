"""The control without modes: one linear layer that predicts the mean of all chunks it has seen in a situation.

It is Octo's `ContinuousActionHead` with its squared error: tanh(Wx/5)·5 on the readout token, for actions normalized by
mean and deviation.
"""

from __future__ import annotations

from torch import Tensor, nn

from pi0_edge.heads.network import ReadoutNetwork, refuse_continuation
from pi0_edge.heads.octo import MAX_ACTION
from pi0_edge.latency.stages import Stage, StageCallback, euler_step, not_timed
from pi0_edge.model import Continuation, ModelInputs, Pi0Config
from pi0_edge.model.pi0 import Context


class MseNetwork(ReadoutNetwork):
    """The readout token and a linear layer."""

    def __init__(self, config: Pi0Config) -> None:
        super().__init__(config)
        self.regression = nn.Linear(config.expert.width, config.horizon * config.head_dims)

    def predict(self, observed: Tensor) -> Tensor:
        """Readout [batch, width] -> chunk [batch, horizon, head_dims]."""
        chunk = (self.regression(observed) / MAX_ACTION).tanh() * MAX_ACTION
        return chunk.unflatten(-1, (self.config.horizon, self.config.head_dims))

    def loss(
        self,
        inputs: ModelInputs,
        actions: Tensor,
        noise: Tensor,
        times: Tensor,
        frozen: Tensor | None = None,
        prefix: Context | None = None,
    ) -> Tensor:
        """Squared error per element [batch, horizon, action_dim]; noise and times have no part in it."""
        return self.padded((self.given(actions) - self.predict(self.read(self.attend(inputs, prefix)))).square())

    def sample_actions(
        self,
        inputs: ModelInputs,
        noise: Tensor,
        times: Tensor,
        continuation: Continuation | None = None,
        on_stage: StageCallback = not_timed,
    ) -> Tensor:
        """As `Pi0.sample_actions`; every noise gives the same chunk, and times have no part in it."""
        refuse_continuation(self.config.head, continuation)
        observed = self.read(self.attend_state(self.attend_prefix(inputs, on_stage), inputs.state))
        on_stage(Stage.STATE)
        chunk = self.padded(self.predict(observed))
        on_stage(euler_step(0))
        return chunk
