"""A tiny network for the tests of quantization."""

import torch

from pi0_edge.model import GemmaConfig, ModelInputs, Pi0Config, VisionConfig

TINY = {
    variant: Pi0Config(
        variant,
        VisionConfig(width=16, depth=1, mlp_dim=24, heads=2, patch_size=7, image_size=14),
        GemmaConfig(width=16, depth=2, mlp_dim=32, heads=2, kv_heads=1, head_dim=8),
        GemmaConfig(width=8, depth=2, mlp_dim=16, heads=2, kv_heads=1, head_dim=8),
        vocab_size=32,
        action_dim=4,
        horizon=3,
    )
    for variant in ("pi0", "pi05")
}


def random_inputs(config: Pi0Config) -> tuple[ModelInputs, torch.Tensor]:
    """Two observations with two cameras, and their noise."""
    generator = torch.Generator().manual_seed(1)
    size = config.vision.image_size
    inputs = ModelInputs(
        images=torch.rand(2, 2, 3, size, size, generator=generator) * 2 - 1,
        image_mask=torch.ones(2, 2, dtype=torch.bool),
        tokens=torch.randint(config.vocab_size, (2, 5), generator=generator),
        token_mask=torch.ones(2, 5, dtype=torch.bool),
        state=torch.randn(2, config.action_dim, generator=generator),
    )
    return inputs, torch.randn(2, config.horizon, config.action_dim, generator=generator)
