"""π0 and π0.5 computed the long way, to check the short way: written from the facts, sharing no code with the project.

Every Euler step runs prefix, state and actions through all layers again as one padded sequence, with an explicit mask
[query, key] built from block numbers and with positions counted over valid tokens. Nothing is cached, nothing that is
masked is left out, no function of time is tabulated. Weights are random, under openpi's names.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, silu

PALIGEMMA = "paligemma_with_expert.paligemma.model."
VISION = f"{PALIGEMMA}vision_tower.vision_model."
EXPERT_ROOTS = {"prefix": f"{PALIGEMMA}language_model.", "expert": "paligemma_with_expert.gemma_expert.model."}
CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
MASKED = -2.3819763e38


@dataclass(frozen=True)
class NaiveSizes:
    variant: str
    depth: int
    heads: int
    kv_heads: int
    head_dim: int
    horizon: int
    action_dim: int = 32
    vocab: int = 64
    widths: dict[str, int] = field(default_factory=lambda: {"prefix": 40, "expert": 24})
    mlps: dict[str, int] = field(default_factory=lambda: {"prefix": 56, "expert": 72})
    vision: dict[str, int] = field(
        default_factory=lambda: {"width": 32, "depth": 2, "mlp": 44, "heads": 2, "patch": 14, "image": 28}
    )


class Weights(dict[str, Tensor]):
    """Random tensors under openpi's names."""

    def __init__(self, sizes: NaiveSizes, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)
        self._add_vision(sizes.vision, sizes.widths["prefix"])
        self._tensor(f"{PALIGEMMA}language_model.embed_tokens.weight", sizes.vocab, sizes.widths["prefix"])
        for expert in EXPERT_ROOTS:
            self._add_expert(sizes, expert)
        self._add_projections(sizes, sizes.widths["expert"])

    def linear(self, name: str, x: Tensor) -> Tensor:
        out = x @ self[f"{name}.weight"].T
        return out + self[f"{name}.bias"] if f"{name}.bias" in self else out

    def _tensor(self, name: str, *shape: int) -> None:
        scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.2
        self[name] = scale * torch.randn(*shape, generator=self._generator)

    def _linear(self, name: str, outputs: int, inputs: int, bias: bool = True) -> None:
        self._tensor(f"{name}.weight", outputs, inputs)
        if bias:
            self._tensor(f"{name}.bias", outputs)

    def _add_vision(self, v: dict[str, int], out: int) -> None:
        self._tensor(f"{VISION}embeddings.patch_embedding.weight", v["width"], 3, v["patch"], v["patch"])
        self._tensor(f"{VISION}embeddings.patch_embedding.bias", v["width"])
        tokens = (v["image"] // v["patch"]) ** 2
        self._tensor(f"{VISION}embeddings.position_embedding.weight", tokens, v["width"])
        for i in range(v["depth"]):
            layer = f"{VISION}encoder.layers.{i}."
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                self._linear(f"{layer}self_attn.{name}", v["width"], v["width"])
            self._linear(f"{layer}mlp.fc1", v["mlp"], v["width"])
            self._linear(f"{layer}mlp.fc2", v["width"], v["mlp"])
        norms = [f"{VISION}encoder.layers.{i}.layer_norm{n}" for i in range(v["depth"]) for n in (1, 2)]
        for norm in (*norms, f"{VISION}post_layernorm"):
            self[f"{norm}.weight"] = 1 + 0.2 * torch.randn(v["width"], generator=self._generator)
            self._tensor(f"{norm}.bias", v["width"])
        self._linear(f"{PALIGEMMA}multi_modal_projector.linear", out, v["width"])

    def _add_expert(self, sizes: NaiveSizes, expert: str) -> None:
        root, width, mlp = EXPERT_ROOTS[expert], sizes.widths[expert], sizes.mlps[expert]
        for i in range(sizes.depth):
            layer = f"{root}layers.{i}."
            self._linear(f"{layer}self_attn.q_proj", sizes.heads * sizes.head_dim, width, bias=False)
            self._linear(f"{layer}self_attn.k_proj", sizes.kv_heads * sizes.head_dim, width, bias=False)
            self._linear(f"{layer}self_attn.v_proj", sizes.kv_heads * sizes.head_dim, width, bias=False)
            self._linear(f"{layer}self_attn.o_proj", width, sizes.heads * sizes.head_dim, bias=False)
            self._linear(f"{layer}mlp.gate_proj", mlp, width, bias=False)
            self._linear(f"{layer}mlp.up_proj", mlp, width, bias=False)
            self._linear(f"{layer}mlp.down_proj", width, mlp, bias=False)
        names = [f"layers.{i}.{n}" for i in range(sizes.depth) for n in ("input_layernorm", "post_attention_layernorm")]
        for name in (*names, "norm"):
            if expert == "expert" and sizes.variant == "pi05":
                self._linear(f"{root}{name}.dense", 3 * width, width)
            else:
                self._tensor(f"{root}{name}.weight", width)

    def _add_projections(self, sizes: NaiveSizes, width: int) -> None:
        self._linear("action_in_proj", width, sizes.action_dim)
        self._linear("action_out_proj", sizes.action_dim, width)
        if sizes.variant == "pi05":
            self._linear("time_mlp_in", width, width)
            self._linear("time_mlp_out", width, width)
            return
        self._linear("state_proj", width, sizes.action_dim)
        self._linear("action_time_mlp_in", width, 2 * width)
        self._linear("action_time_mlp_out", width, width)


class NaivePi0:
    """The network; `inputs` are the arrays of a recording, as tensors."""

    def __init__(self, sizes: NaiveSizes, seed: int = 0) -> None:
        self.sizes = sizes
        self.w = Weights(sizes, seed)

    def sample(self, inputs: dict[str, Tensor], times: list[float]) -> Tensor:
        x = inputs["noise"]
        for t in times:
            velocity, _ = self.velocity(inputs, x, torch.full((len(x),), t))
            x = x - velocity / len(times)
        return x

    def loss(self, inputs: dict[str, Tensor]) -> Tensor:
        t, noise, actions = inputs["time"], inputs["noise"], inputs["actions"]
        x = t[:, None, None] * noise + (1 - t[:, None, None]) * actions
        return (noise - actions - self.velocity(inputs, x, t)[0]) ** 2

    def velocity(self, inputs: dict[str, Tensor], x: Tensor, t: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The velocity, and keys and values of the prefix tokens per layer, [batch, kv_heads, tokens, head_dim]."""
        prefix, prefix_valid = self._prefix(inputs)
        suffix, condition = self._suffix(inputs, x, t)
        starts = torch.zeros(prefix.shape[1] + suffix.shape[1])
        starts[prefix.shape[1]] = starts[-x.shape[1]] = 1  # the state token and the first action open a block
        valid = torch.cat((prefix_valid, torch.ones(suffix.shape[:2], dtype=torch.bool)), 1)
        block, position = starts.cumsum(0), valid.long().cumsum(1) - 1
        visible = (block[None, :] <= block[:, None])[None] & valid[:, None, :] & valid[:, :, None]
        bias = torch.where(visible, 0.0, MASKED)[:, None]
        streams, cache = {"prefix": prefix, "expert": suffix}, []
        for i in range(self.sizes.depth):
            streams, kv = self._layer(i, streams, position, bias, condition)
            cache.append(tuple(part[:, :, : prefix.shape[1]] for part in kv))
        out, _ = self._norm("expert", "norm", streams["expert"], condition)
        return self.w.linear("action_out_proj", out[:, -x.shape[1] :]), cache

    def _layer(
        self, i: int, streams: dict[str, Tensor], position: Tensor, bias: Tensor, condition: Tensor | None
    ) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        s, gates, heads = self.sizes, {}, {"q": [], "k": [], "v": []}
        for expert, x in streams.items():
            normed, gates[expert] = self._norm(expert, f"layers.{i}.input_layernorm", x, condition)
            for name, parts in heads.items():
                projected = self.w.linear(f"{EXPERT_ROOTS[expert]}layers.{i}.self_attn.{name}_proj", normed)
                parts.append(projected.unflatten(-1, (-1, s.head_dim)).transpose(1, 2))
        q, k, v = (torch.cat(parts, 2) for parts in heads.values())
        q, k = rotate(q, position), rotate(k, position)
        shared = s.heads // s.kv_heads
        logits = q @ k.repeat_interleave(shared, 1).transpose(2, 3) * s.head_dim**-0.5 + bias
        mixed = (logits.softmax(-1) @ v.repeat_interleave(shared, 1)).transpose(1, 2).flatten(2)
        out, start = {}, 0
        for expert, x in streams.items():
            own = mixed[:, start : start + x.shape[1]]
            start += x.shape[1]
            out[expert] = self._feed_forward(i, expert, x, own, gates[expert], condition)
        return out, (k, v)

    def _feed_forward(
        self, i: int, expert: str, x: Tensor, attended: Tensor, gate: Tensor | float, condition: Tensor | None
    ) -> Tensor:
        layer = f"{EXPERT_ROOTS[expert]}layers.{i}."
        x = x + gate * self.w.linear(f"{layer}self_attn.o_proj", attended)
        normed, gate = self._norm(expert, f"layers.{i}.post_attention_layernorm", x, condition)
        hidden = gelu(self.w.linear(f"{layer}mlp.gate_proj", normed), approximate="tanh")
        hidden = hidden * self.w.linear(f"{layer}mlp.up_proj", normed)
        return x + gate * self.w.linear(f"{layer}mlp.down_proj", hidden)

    def _norm(self, expert: str, name: str, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor | float]:
        normed = x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
        key = f"{EXPERT_ROOTS[expert]}{name}"
        if f"{key}.weight" in self.w:
            return normed * (1 + self.w[f"{key}.weight"]), 1.0
        assert condition is not None
        scale, shift, gate = self.w.linear(f"{key}.dense", condition)[:, None].chunk(3, -1)
        return normed * (1 + scale) + shift, gate

    def _prefix(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        tokens, valid = [], []
        for camera in (camera for camera in CAMERAS if f"image.{camera}" in inputs):
            tokens.append(self._look(inputs[f"image.{camera}"]))
            valid.append(inputs[f"image_mask.{camera}"][:, None].expand(tokens[-1].shape[:2]))
        table = self.w[f"{PALIGEMMA}language_model.embed_tokens.weight"]
        tokens.append(table[inputs["tokens"]] * self.sizes.widths["prefix"] ** 0.5)
        return torch.cat(tokens, 1), torch.cat((*valid, inputs["token_mask"]), 1)

    def _look(self, image: Tensor) -> Tensor:
        v, size = self.sizes.vision, self.sizes.vision["patch"]
        patches = image.unfold(1, size, size).unfold(2, size, size).flatten(1, 2)  # [batch, tokens, 3, rows, columns]
        kernel = self.w[f"{VISION}embeddings.patch_embedding.weight"].flatten(1)
        x = patches.flatten(2) @ kernel.T + self.w[f"{VISION}embeddings.patch_embedding.bias"]
        x = x + self.w[f"{VISION}embeddings.position_embedding.weight"]
        for i in range(v["depth"]):
            layer = f"{VISION}encoder.layers.{i}."
            normed = self._layer_norm(f"{layer}layer_norm1", x)
            names = ("q_proj", "k_proj", "v_proj")
            q, k, value = (self.w.linear(f"{layer}self_attn.{name}", normed) for name in names)
            q, k, value = (part.unflatten(-1, (v["heads"], -1)).transpose(1, 2) for part in (q, k, value))
            weights = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1)
            x = x + self.w.linear(f"{layer}self_attn.out_proj", (weights @ value).transpose(1, 2).flatten(2))
            hidden = self.w.linear(f"{layer}mlp.fc1", self._layer_norm(f"{layer}layer_norm2", x))
            x = x + self.w.linear(f"{layer}mlp.fc2", gelu(hidden, approximate="tanh"))
        return self.w.linear(f"{PALIGEMMA}multi_modal_projector.linear", self._layer_norm(f"{VISION}post_layernorm", x))

    def _layer_norm(self, name: str, x: Tensor) -> Tensor:
        return layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], 1e-6)

    def _suffix(self, inputs: dict[str, Tensor], x: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        w, width = self.w, self.sizes.widths["expert"]
        actions, time = w.linear("action_in_proj", x), embed_time(t, width)
        if self.sizes.variant == "pi05":
            return actions, silu(w.linear("time_mlp_out", silu(w.linear("time_mlp_in", time))))
        both = torch.cat((actions, time[:, None].expand(-1, x.shape[1], -1)), -1)
        actions = w.linear("action_time_mlp_out", silu(w.linear("action_time_mlp_in", both)))
        return torch.cat((w.linear("state_proj", inputs["state"])[:, None], actions), 1), None


def embed_time(t: Tensor, width: int) -> Tensor:
    steps = torch.arange(width // 2, dtype=torch.float64) / (width // 2 - 1)
    phase = 2 * torch.pi * t.double()[:, None] / (4e-3 * 1000.0**steps)
    return torch.cat((phase.sin(), phase.cos()), -1).float()


def rotate(x: Tensor, position: Tensor) -> Tensor:
    """Rotary positions of [batch, heads, tokens, head_dim]: dimension j turns with dimension j + head_dim / 2."""
    half = x.shape[-1] // 2
    frequency = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    turn = torch.polar(torch.ones(()).double(), position.double()[:, None, :, None] * frequency)
    turned = torch.complex(x[..., :half].double(), x[..., half:].double()) * turn
    return torch.cat((turned.real, turned.imag), -1).float()
