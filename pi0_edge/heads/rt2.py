"""RT-2's head: every number of a chunk is one of 256 tokens, and each token is predicted from the ones before it.

RT-2 (arXiv 2307.15818) is closed; the details are OpenVLA's (prismatic/vla/action_tokenizer.py, commit c8f03f4): the
1 % and 99 % quantile of each dimension become −1 and 1; `numpy.digitize` over 256 edges from −1 to 1 gives a bin from 1
to 256, and a bin is read as the centre between its edge and the next. There are 255 centres, so that the last two bins
share one. Tokens are trained with the cross-entropy and chosen greedily. One action has as many tokens as the robot has
dimensions; RT-2 predicts one action at a time (horizon 1).

Scaled: the transformer is the flow expert with causal attention among the action tokens, instead of the language model
itself. Different: a token also tells by a learned embedding which dimension it belongs to, which a language model has
learned to count; only action tokens are in the vocabulary, to which RT-2 restricts its decoding as well; the gripper is
in bins as every joint is, because here it opens gradually; a chunk of more than one action (50 for comparison) follows
in the order of time. `Pi0Config.decoding` "sampled" draws each token at temperature 1 instead.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pi0_edge.heads.network import ActionRange, HeadNetwork, refuse_continuation, row_generators
from pi0_edge.latency.stages import Stage, StageCallback, euler_step, not_timed
from pi0_edge.model import Continuation, ModelInputs, Pi0Config
from pi0_edge.model.gemma import Attention, GemmaLayer, KeyValues, Rotary
from pi0_edge.model.pi0 import Context, extend_mask

BINS = 256
QUANTILE = 0.01
BEGIN = BINS
"""The token before the first one."""


def _edges(device: torch.device) -> Tensor:
    """The 256 edges as numpy has them; those of torch differ in the last bit."""
    return torch.from_numpy(np.linspace(-1.0, 1.0, BINS)).to(device)


def to_bins(shrunk: Tensor) -> Tensor:
    """Numbers in [-1, 1] -> tokens 0 to 255: `numpy.digitize` over 256 edges, less 1; outside is clipped."""
    return torch.bucketize(shrunk.double().clamp(-1.0, 1.0).contiguous(), _edges(shrunk.device), right=True) - 1


def from_bins(tokens: Tensor) -> Tensor:
    """Tokens 0 to 255 -> centres, float32; the last two tokens share the last of the 255 centres."""
    edges = _edges(tokens.device)
    centres = (edges[1:] + edges[:-1]) / 2
    return centres[tokens.clamp(0, BINS - 2)].float()


class Rt2Network(HeadNetwork):
    """The expert as a decoder of action tokens."""

    def __init__(self, config: Pi0Config) -> None:
        super().__init__(config)
        width = config.expert.width
        self.bin_embedding = nn.Embedding(BINS + 1, width)
        self.dimension_embedding = nn.Embedding(config.head_dims, width)
        for embedding in (self.bin_embedding, self.dimension_embedding):
            nn.init.normal_(embedding.weight, std=1.0)
        self.bin_out = nn.Linear(width, BINS)
        self.range = ActionRange(config.head_dims)

    @property
    def tokens(self) -> int:
        """Of a chunk."""
        return self.config.horizon * self.config.head_dims

    def fit_actions(self, actions: Tensor) -> None:
        """The range is from the 1 % to the 99 % quantile."""
        known = self.given(actions).double()
        low, high = (torch.quantile(known, share, dim=0).float() for share in (QUANTILE, 1 - QUANTILE))
        self.range.set(low, high)

    def loss(
        self,
        inputs: ModelInputs,
        actions: Tensor,
        noise: Tensor,
        times: Tensor,
        frozen: Tensor | None = None,
        prefix: Context | None = None,
    ) -> Tensor:
        """Cross-entropy per number [batch, horizon, action_dim], in nats; noise and times have no part in it."""
        tokens = to_bins(self.range.shrink(self.given(actions)))
        logits = self.logits(self.attend(inputs, prefix), tokens.flatten(1))
        entropy = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
        return self.padded(entropy.view(tokens.shape))

    def logits(self, context: Context, tokens: Tensor) -> Tensor:
        """What each token of a chunk is predicted to be from those before it, all at once.

        Args:
            context: From `attend_state`.
            tokens: int64 [batch, tokens].

        Returns:
            float32 [batch, tokens, 256].
        """
        before = F.pad(tokens[:, :-1], (1, 0), value=BEGIN)
        x = self._embed(before, torch.arange(tokens.shape[1], device=tokens.device))
        positions = context.lengths[:, None] + torch.arange(x.shape[1], device=x.device)
        mask = causal_mask(context, x.shape[1])
        rotary = Rotary(positions, self.expert.head_dim, x.dtype)
        for layer, seen in zip(self.expert.layers, context.layers, strict=True):
            x = _causal_layer(cast(GemmaLayer, layer), x, rotary, seen, mask)
        return self.bin_out(self.expert.final_norm(x, None)[0].float())

    def sample_actions(
        self,
        inputs: ModelInputs,
        noise: Tensor,
        times: Tensor,
        continuation: Continuation | None = None,
        on_stage: StageCallback = not_timed,
    ) -> Tensor:
        """As `Pi0.sample_actions`; `on_stage` hears of every action, and times have no part in it."""
        refuse_continuation(self.config.head, continuation)
        context = self.attend_state(self.attend_prefix(inputs, on_stage), inputs.state)
        on_stage(Stage.STATE)
        generators = row_generators(noise) if self.config.decoding == "sampled" else None
        caches = [_Cache(layer, self.tokens) for layer in context.layers]
        chosen = torch.full((len(noise), 1), BEGIN, device=noise.device)
        tokens = []
        for place in range(self.tokens):
            chosen = _choose(self._next_logits(chosen, place, context, caches), generators)
            tokens.append(chosen)
            if (place + 1) % self.config.head_dims == 0:
                on_stage(euler_step(place // self.config.head_dims))
        chunk = from_bins(torch.cat(tokens, dim=1)).unflatten(1, (self.config.horizon, self.config.head_dims))
        return self.padded(self.range.expand(chunk))

    def _next_logits(self, before: Tensor, place: int, context: Context, caches: list[_Cache]) -> Tensor:
        x = self._embed(before, torch.tensor([place], device=before.device))
        rotary = Rotary(context.lengths[:, None] + place, self.expert.head_dim, x.dtype)
        mask = extend_mask(context.key_mask, place + 1)
        for module, cache in zip(self.expert.layers, caches, strict=True):
            layer = cast(GemmaLayer, module)
            normed = layer.attention_norm(x)[0]
            seen = cache.extended(layer.attention.key_values(normed, rotary))
            x = x + layer.attention(normed, rotary, seen, mask)
            x = x + layer.mlp(layer.mlp_norm(x)[0])
        return self.bin_out(self.expert.final_norm(x, None)[0].float())[:, 0]

    def _embed(self, before: Tensor, place: Tensor) -> Tensor:
        """The token before each place, and the dimension that the place is for."""
        dimension = self.dimension_embedding(place % self.config.head_dims)
        return (self.bin_embedding(before) + dimension).to(self.residual_dtype)


def causal_mask(context: Context, tokens: int) -> Tensor:
    """Which keys each token may attend to: the whole context, itself and the tokens before; bool [batch, 1, q, k]."""
    own = torch.ones(tokens, tokens, dtype=torch.bool, device=context.lengths.device).tril()
    before = context.layers[0].keys.shape[1]
    shape = (len(context.lengths), 1, tokens)
    if context.key_mask is None:
        seen = own.new_ones(*shape, before)
    else:
        seen = context.key_mask[:, None, None].expand(*shape, before)
    return torch.cat((seen, own.expand(*shape, tokens)), dim=-1)


class _Cache:
    """Keys and values of one layer with room for every token of a chunk, so that none is copied twice."""

    def __init__(self, seen: KeyValues, tokens: int) -> None:
        self._length = seen.keys.shape[1]
        self._keys, self._values = (F.pad(x, (0, 0, 0, 0, 0, tokens)) for x in (seen.keys, seen.values))

    def extended(self, own: KeyValues) -> KeyValues:
        """All keys and values so far, with those of one more token."""
        self._keys[:, self._length], self._values[:, self._length] = own.keys[:, 0], own.values[:, 0]
        self._length += 1
        return KeyValues(self._keys[:, : self._length], self._values[:, : self._length])


def _choose(logits: Tensor, generators: list[torch.Generator] | None) -> Tensor:
    """A token per row, int64 [batch, 1]: the likeliest, or one drawn by the generator of the row."""
    if generators is None:
        return logits.argmax(-1, keepdim=True)
    shares = logits.softmax(-1).cpu()
    drawn = [torch.multinomial(share, 1, generator=own) for share, own in zip(shares, generators, strict=True)]
    return torch.stack(drawn).to(logits.device)


def _causal_layer(layer: GemmaLayer, x: Tensor, rotary: Rotary, seen: KeyValues, mask: Tensor) -> Tensor:
    """`GemmaLayer` whose tokens do not see later ones."""
    normed = layer.attention_norm(x)[0]
    keys = seen.extended(layer.attention.key_values(normed, rotary))
    x = x + _masked_attention(layer.attention, normed, rotary, keys, mask)
    return x + layer.mlp(layer.mlp_norm(x)[0])


def _masked_attention(attention: Attention, x: Tensor, rotary: Rotary, seen: KeyValues, mask: Tensor) -> Tensor:
    q = rotary(attention.q(x).unflatten(-1, (-1, attention.head_dim))).transpose(1, 2)
    shared = q.shape[1] // seen.keys.shape[2]
    keys, values = (part.transpose(1, 2).repeat_interleave(shared, 1) for part in (seen.keys, seen.values))
    out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    return attention.o(out.transpose(1, 2).flatten(2))
