"""π0: a vision-language prefix, attended once, and a flow-matching action expert that integrates a chunk from noise.

    images ─ SigLIP ─ projector ┐
    prompt ─ token embedding    ┴─► prefix ─► keys and values of every layer     (once per chunk)
    state  ─ state_proj ───────────► expert ─► one more key and value per layer  (once per chunk, π0)
    noise  ─ x ◄── x + dt·v ◄─────── expert ◄─ conditioning of this Euler step   (ten times)

Only what can change the actions is computed: cameras that are missing and prompt padding never enter the prefix (they
are masked and consume no positions, so dropping them is exact), the last prefix layer stops at its keys and values, the
state token is cached because it attends to neither actions nor time, and all functions of time alone are tabulated.

Sources: Black et al., π0 (arXiv 2410.24164); π0.5 (arXiv 2504.16054); openpi for everything the papers leave open.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pi0_edge.latency.stages import Stage, StageCallback, euler_step, not_timed
from pi0_edge.model.config import Pi0Config
from pi0_edge.model.flow import noisy_chunk, time_embedding
from pi0_edge.model.gemma import ActionExpert, AdaRMSNorm, KeyValues, Prefix
from pi0_edge.model.inputs import ModelInputs
from pi0_edge.model.rtc import Continuation, frozen_actions
from pi0_edge.model.siglip import SigLIP


@dataclass(frozen=True)
class Context:
    """What the action tokens attend to: prefix and, in π0, the state token.

    Attributes:
        layers: Keys and values per layer, each [batch, keys, kv_heads, head_dim].
        lengths: int64 [batch], valid keys of each row, left-aligned except for an appended state token.
        key_mask: bool [batch, keys], or None where every key is valid.
    """

    layers: list[KeyValues]
    lengths: Tensor
    key_mask: Tensor | None

    def repeated(self, times: int) -> Context:
        """Every row `times` times over, for several noise draws on one observation."""

        def repeat(x: Tensor) -> Tensor:
            return x.repeat_interleave(times, 0)

        layers = [KeyValues(repeat(layer.keys), repeat(layer.values)) for layer in self.layers]
        return Context(layers, repeat(self.lengths), None if self.key_mask is None else repeat(self.key_mask))


@dataclass(frozen=True)
class StepConditioning:
    """Everything in the network that depends on time alone, for a list of times.

    Attributes:
        time_bias: π0: [times, 1, width], the time half of action_time_mlp_in with its bias.
        modulations: π0.5: one [times, 1, 3 * width] per norm of the expert.
    """

    time_bias: Tensor | None
    modulations: list[Tensor] | None

    def at(self, step: int) -> StepConditioning:
        """The conditioning of one time, broadcast over the batch."""
        return self._mapped(lambda table: table[step : step + 1])

    def per_action(self, times: Tensor) -> StepConditioning:
        """The conditioning of each action at a time of its own: tables [rows, horizon, width].

        Args:
            times: int64 [rows, horizon], which of the tabulated times; one row serves the whole batch.
        """
        return self._mapped(lambda table: table[:, 0][times])

    def _mapped(self, pick: Callable[[Tensor], Tensor]) -> StepConditioning:
        bias = None if self.time_bias is None else pick(self.time_bias)
        return StepConditioning(bias, None if self.modulations is None else [pick(m) for m in self.modulations])


class PolicyNetwork(nn.Module, ABC):
    """What networks with any action head share: vision, prefix, state token, and a transformer of the expert's size.

    A head is a subclass. It makes `state_proj`, gives the expert its tokens, and has `loss` and `sample_actions`.
    """

    state_proj: nn.Linear

    def __init__(self, config: Pi0Config) -> None:
        super().__init__()
        self.config = config
        self.residual_dtype = torch.float32  # of the token streams; `precision` changes it together with the weights
        self.vision = SigLIP(config.vision)
        self.projector = nn.Linear(config.vision.width, config.prefix.width)
        self.token_embedding = nn.Embedding(config.vocab_size, config.prefix.width)
        nn.init.normal_(self.token_embedding.weight, std=config.prefix.width**-0.5)
        self.prefix = Prefix(config.prefix)
        self.expert = ActionExpert(config.expert, adaptive=config.variant == "pi05")

    # Prefix: once per observation.

    def embed_prefix(self, inputs: ModelInputs) -> tuple[Tensor, Tensor]:
        """Valid image and prompt tokens, left-aligned in each row.

        Returns:
            Embeddings [batch, longest row, prefix width] and lengths int64 [batch].
        """
        seen = self.projector(self.vision(inputs.images[inputs.image_mask]).to(self.projector.weight.dtype))
        images = seen.new_zeros(*inputs.image_mask.shape, *seen.shape[1:])
        images[inputs.image_mask] = seen
        words = self.token_embedding(inputs.tokens) * math.sqrt(self.config.prefix.width)
        tokens = torch.cat((images.flatten(1, 2).to(self.residual_dtype), words.to(self.residual_dtype)), dim=1)
        order, lengths = packing_order(inputs, self.config.vision.tokens)
        return torch.gather(tokens, 1, order[..., None].expand(-1, -1, tokens.shape[-1])), lengths

    def attend_prefix(self, inputs: ModelInputs, on_stage: StageCallback = not_timed) -> Context:
        """Keys and values of images and prompt; `on_stage` hears when vision and prefix are over."""
        tokens, lengths = self.embed_prefix(inputs)
        on_stage(Stage.VISION)
        ragged = bool((lengths != tokens.shape[1]).any())
        key_mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None] if ragged else None
        layers = self.prefix(tokens, key_mask)
        on_stage(Stage.PREFIX)
        return Context(layers, lengths, key_mask)

    def attend_state(self, context: Context, state: Tensor) -> Context:
        """The context with the state token appended (π0); π0.5 has no state token and returns it unchanged."""
        if self.config.variant == "pi05":
            return context
        # Row by row: torch sums one row in another order than several, and who shares a pass shall change no chunk.
        rows = state.split(1) if len(state) > 1 else (state,)
        token = torch.cat([self.state_proj(row)[:, None] for row in rows]).to(self.residual_dtype)
        key_mask = extend_mask(context.key_mask, 1)
        own = self.expert.key_values(token, context.lengths[:, None], context.layers, key_mask)
        layers = [before.extended(state_kv) for before, state_kv in zip(context.layers, own, strict=True)]
        return Context(layers, context.lengths + 1, key_mask)

    # The two uses of a network.

    @abstractmethod
    def sample_actions(
        self,
        inputs: ModelInputs,
        noise: Tensor,
        times: Tensor,
        continuation: Continuation | None = None,
        on_stage: StageCallback = not_timed,
    ) -> Tensor:
        """Makes chunks, see `Pi0.sample_actions`; the same noise gives the same chunk whatever the head."""

    @abstractmethod
    def loss(
        self,
        inputs: ModelInputs,
        actions: Tensor,
        noise: Tensor,
        times: Tensor,
        frozen: Tensor | None = None,
        prefix: Context | None = None,
    ) -> Tensor:
        """The training loss per element of the chunk, see `Pi0.loss`."""


class Pi0(PolicyNetwork):
    """The π0 or π0.5 network."""

    def __init__(self, config: Pi0Config) -> None:
        super().__init__(config)
        width = config.expert.width
        self.action_in_proj = nn.Linear(config.action_dim, width)
        self.action_out_proj = nn.Linear(width, config.action_dim)
        if config.variant == "pi0":
            self.state_proj = nn.Linear(config.action_dim, width)
            self.action_time_mlp_in = nn.Linear(2 * width, width)
            self.action_time_mlp_out = nn.Linear(width, width)
        else:
            self.time_mlp_in = nn.Linear(width, width)
            self.time_mlp_out = nn.Linear(width, width)

    # Suffix: once per Euler step.

    def condition(self, times: Tensor) -> StepConditioning:
        """Tabulates the functions of time for `times` [n]."""
        embedded = time_embedding(times, self.config.expert.width)
        if self.config.variant == "pi0":
            time_half = self.action_time_mlp_in.weight[:, self.config.expert.width :]
            return StepConditioning(F.linear(embedded, time_half, self.action_time_mlp_in.bias)[:, None], None)
        condition = F.silu(self.time_mlp_out(F.silu(self.time_mlp_in(embedded))))[:, None]
        norms = self.expert.norms()
        return StepConditioning(None, [norm.modulation(condition) for norm in norms if isinstance(norm, AdaRMSNorm)])

    def embed_actions(self, x: Tensor, conditioning: StepConditioning) -> Tensor:
        """Noisy chunk [batch, horizon, action_dim] -> action tokens [batch, horizon, expert width]."""
        tokens = self.action_in_proj(x)
        if conditioning.time_bias is not None:
            action_half = self.action_time_mlp_in.weight[:, : self.config.expert.width]
            tokens = self.action_time_mlp_out(F.silu(F.linear(tokens, action_half) + conditioning.time_bias))
        return tokens

    def velocity(self, x: Tensor, conditioning: StepConditioning, context: Context) -> Tensor:
        """dx/dt of the noisy chunk.

        Args:
            x: float32 [batch, horizon, action_dim].
            conditioning: Of the time of x: one time for the whole batch, one per row or one per action.
            context: From `attend_state`.

        Returns:
            float32 [batch, horizon, action_dim].
        """
        tokens = self.embed_actions(x, conditioning).to(self.residual_dtype)
        positions = context.lengths[:, None] + torch.arange(x.shape[1], device=x.device)
        key_mask = extend_mask(context.key_mask, x.shape[1])
        out = self.expert(tokens, positions, context.layers, key_mask, conditioning.modulations)
        return self.action_out_proj(out.float())

    def sample_actions(
        self,
        inputs: ModelInputs,
        noise: Tensor,
        times: Tensor,
        continuation: Continuation | None = None,
        on_stage: StageCallback = not_timed,
    ) -> Tensor:
        """Integrates chunks from noise.

        Args:
            inputs: The observations.
            noise: float32 [batch, horizon, action_dim], standard normal.
            times: float32 [steps] from `flow.euler_times`.
            continuation: What the chunks continue (real-time chunking).
            on_stage: Hears when each stage and each Euler step is over, on a CPU; a GPU has only begun it by then.

        Returns:
            Normalized actions, float32 [batch, horizon, action_dim].
        """
        context = self.attend_state(self.attend_prefix(inputs, on_stage), inputs.state)
        conditioning = self._condition_steps(times, noise.shape[1], 0 if continuation is None else continuation.frozen)
        on_stage(Stage.STATE)
        x = noise if continuation is None else continuation.start(noise)
        for step, time in enumerate(times):
            velocity = self.velocity(x, conditioning[step], context)
            if continuation is not None:
                velocity = continuation.steer(velocity, x, time)
            x = x - velocity / len(times)
            on_stage(euler_step(step))
        return x

    def _condition_steps(self, times: Tensor, horizon: int, frozen: int) -> list[StepConditioning]:
        """The conditioning of every Euler step, with the first `frozen` actions at time 0."""
        steps = range(len(times))
        if frozen == 0:
            table = self.condition(times)
            return [table.at(step) for step in steps]
        table = self.condition(F.pad(times, (0, 1)))
        is_frozen = torch.arange(horizon, device=times.device) < frozen
        return [table.per_action(torch.where(is_frozen, len(times), step)[None]) for step in steps]

    def loss(
        self,
        inputs: ModelInputs,
        actions: Tensor,
        noise: Tensor,
        times: Tensor,
        frozen: Tensor | None = None,
        prefix: Context | None = None,
    ) -> Tensor:
        """Flow-matching loss per element: (ε − A − v(x_t, t))².

        Args:
            inputs: The observations [batch].
            actions: Normalized chunks, float32 [batch, horizon, action_dim].
            noise: float32 [draws * batch, horizon, action_dim]: `draws` noise draws per observation, row-major by
                observation, share one pass over the prefix.
            times: float32 [draws * batch].
            frozen: int64 [draws * batch]: so many leading actions are shown without noise, at time 0
                (arXiv 2512.05964); their loss means nothing. None freezes none.
            prefix: `attend_prefix` of these inputs, where it is known; their images are not looked at then.

        Returns:
            float32 [draws * batch, horizon, action_dim].
        """
        context = self.attend_state(self.attend_prefix(inputs) if prefix is None else prefix, inputs.state)
        draws = noise.shape[0] // actions.shape[0]
        if draws > 1:
            context, actions = context.repeated(draws), actions.repeat_interleave(draws, 0)
        x, conditioning = noisy_chunk(actions, noise, times), self.condition(times)
        if frozen is not None:
            x, conditioning = self._freeze(x, actions, times, frozen)
        return (noise - actions - self.velocity(x, conditioning, context)).square()

    def _freeze(self, x: Tensor, actions: Tensor, times: Tensor, frozen: Tensor) -> tuple[Tensor, StepConditioning]:
        """The noisy chunks with their first `frozen` actions clean and at time 0."""
        rows, horizon = x.shape[:2]
        is_frozen = frozen_actions(frozen, horizon)
        which = torch.where(is_frozen, rows, torch.arange(rows, device=x.device)[:, None])
        conditioning = self.condition(F.pad(times, (0, 1))).per_action(which)
        return torch.where(is_frozen[..., None], actions, x), conditioning


def packing_order(inputs: ModelInputs, tokens_per_camera: int) -> tuple[Tensor, Tensor]:
    """Positions of the valid prefix tokens of each row in [images, prompt].

    Returns:
        order: int64 [batch, longest row]; each row's valid tokens first, in their order.
        lengths: int64 [batch], how many are valid.
    """
    valid = torch.cat((inputs.image_mask.repeat_interleave(tokens_per_camera, 1), inputs.token_mask), dim=1)
    lengths = valid.sum(1)
    order = torch.argsort(~valid, dim=1, stable=True)[:, : int(lengths.max())]
    return order, lengths


def extend_mask(key_mask: Tensor | None, keys: int) -> Tensor | None:
    """The mask with `keys` valid keys appended."""
    return None if key_mask is None else F.pad(key_mask, (0, keys), value=True)
