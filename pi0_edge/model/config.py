"""The sizes of a π0 network, and presets for the published models and for the demo policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Variant = Literal["pi0", "pi05"]
Head = Literal["flow", "rt2", "octo", "tinyvla", "mse"]
"""What makes actions of the prefix: π0's flow matching, or a head of `pi0_edge.heads`."""
Decoding = Literal["greedy", "sampled"]
"""How the `rt2` head chooses a token: the likeliest one, or a draw."""


@dataclass(frozen=True)
class VisionConfig:
    """A SigLIP tower: square images, square patches, learned positions, no class token."""

    width: int
    depth: int
    mlp_dim: int
    heads: int
    patch_size: int = 14
    image_size: int = 224

    @property
    def tokens(self) -> int:
        """Image tokens of one camera."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class GemmaConfig:
    """One Gemma expert. Prefix and action expert share depth, heads, kv_heads and head_dim; widths differ."""

    width: int
    depth: int
    mlp_dim: int
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class Pi0Config:
    """All sizes of one π0 (`pi0`) or π0.5 (`pi05`) network.

    Attributes:
        horizon: Actions of one chunk.
        trained_delay: Longest frozen prefix, in actions, that the network was trained with (training-time RTC, see
            `pi0_edge.model.rtc`); 0 where it was not.
        head: What makes the actions.
        real_dims: How many leading action dimensions a head other than `flow` gives, the rest being 0; 0 is all.
        decoding: Of the `rt2` head.

    Raises:
        ValueError: If the experts cannot attend to each other or a size does not divide as it must.
    """

    variant: Variant
    vision: VisionConfig
    prefix: GemmaConfig
    expert: GemmaConfig
    vocab_size: int
    action_dim: int = 32
    horizon: int = 50
    max_prompt_tokens: int = 48
    trained_delay: int = 0
    head: Head = "flow"
    real_dims: int = 0
    decoding: Decoding = "greedy"

    @property
    def kind(self) -> str:
        """Variant and, where it is not flow matching, head: `pi0`, `pi05`, `pi0-octo`."""
        return self.variant if self.head == "flow" else f"{self.variant}-{self.head}"

    @property
    def head_dims(self) -> int:
        """Action dimensions that the head gives."""
        return self.real_dims or self.action_dim

    def __post_init__(self) -> None:
        for name in ("depth", "heads", "kv_heads", "head_dim"):
            prefix, expert = getattr(self.prefix, name), getattr(self.expert, name)
            if prefix != expert:
                raise ValueError(f"prefix and expert must have the same {name}, found {prefix} and {expert}")
        if self.prefix.heads % self.prefix.kv_heads:
            raise ValueError(f"heads ({self.prefix.heads}) must be a multiple of kv_heads ({self.prefix.kv_heads})")
        if self.prefix.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, found {self.prefix.head_dim}")
        if self.vision.width % self.vision.heads:
            raise ValueError(f"vision width {self.vision.width} is not a multiple of its {self.vision.heads} heads")
        if self.vision.image_size % self.vision.patch_size:
            raise ValueError(
                f"image_size {self.vision.image_size} is not a multiple of patch_size {self.vision.patch_size}"
            )
        if not 0 <= self.trained_delay < self.horizon:
            raise ValueError(f"trained_delay must leave an action of {self.horizon} free, found {self.trained_delay}")
        if self.head not in get_args(Head):
            raise ValueError(f"the head is {self.head!r}, expected one of {', '.join(get_args(Head))}")
        if self.decoding not in get_args(Decoding):
            raise ValueError(f"the decoding is {self.decoding!r}, expected {' or '.join(get_args(Decoding))}")
        if not 0 <= self.real_dims <= self.action_dim:
            raise ValueError(f"real_dims is {self.real_dims}, expected 0 to action_dim, which is {self.action_dim}")
        if self.head != "flow" and (self.variant != "pi0" or self.trained_delay):
            raise ValueError(
                f"the head {self.head} stands on a π0 with a state token and without a frozen prefix, found "
                f"{self.variant} with a trained_delay of {self.trained_delay}"
            )
        if self.head == "tinyvla" and self.horizon % 4:
            raise ValueError(f"the head tinyvla halves the chunk twice: horizon {self.horizon} is no multiple of 4")
        if self.expert.width % 2:
            raise ValueError(f"expert width must be even for the time embedding, found {self.expert.width}")


_SIGLIP_SO400M = VisionConfig(width=1152, depth=27, mlp_dim=4304, heads=16)
_GEMMA_2B = GemmaConfig(width=2048, depth=18, mlp_dim=16384, heads=8, kv_heads=1, head_dim=256)
_GEMMA_300M = GemmaConfig(width=1024, depth=18, mlp_dim=4096, heads=8, kv_heads=1, head_dim=256)

PRESETS: dict[str, Pi0Config] = {
    "pi0": Pi0Config("pi0", _SIGLIP_SO400M, _GEMMA_2B, _GEMMA_300M, vocab_size=257152),
    "pi05": Pi0Config("pi05", _SIGLIP_SO400M, _GEMMA_2B, _GEMMA_300M, vocab_size=257152, max_prompt_tokens=200),
    # The demo policy: the same network, small enough to be trained on one CPU core.
    "pi0-cube": Pi0Config(
        "pi0",
        VisionConfig(width=128, depth=3, mlp_dim=384, heads=4, patch_size=16, image_size=112),
        GemmaConfig(width=128, depth=4, mlp_dim=256, heads=4, kv_heads=1, head_dim=32),
        GemmaConfig(width=96, depth=4, mlp_dim=384, heads=4, kv_heads=1, head_dim=32),
        vocab_size=512,
        max_prompt_tokens=16,
    ),
}
