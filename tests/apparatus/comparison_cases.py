"""A comparison of heads that is over in seconds: two heads, one task, a network of a few thousand parameters."""

from __future__ import annotations

from pi0_edge.comparison.plan import Decoding, Plan, TaskBudget, Variant
from pi0_edge.model import GemmaConfig, Pi0Config, VisionConfig
from pi0_edge.sim.tasks import TWO_WAYS

TINY = Pi0Config(
    "pi0",
    VisionConfig(width=8, depth=1, mlp_dim=8, heads=2, patch_size=56, image_size=112),
    GemmaConfig(width=8, depth=1, mlp_dim=8, heads=1, kv_heads=1, head_dim=8),
    GemmaConfig(width=16, depth=1, mlp_dim=16, heads=1, kv_heads=1, head_dim=8),
    vocab_size=300,
    action_dim=14,
    max_prompt_tokens=16,
)
FLOW = Variant("flow-50", "flow", 50, 25, (Decoding("2 steps", 2),))
MSE = Variant("mse-50", "mse", 50, 25, (Decoding("one pass"),))
TASK = TaskBudget(TWO_WAYS.name, 3, 1, 0.1, 0.1, 1e-3, 0.05, 0.1, scenes=2, drawn=1, precise=1)
PLAN = Plan(
    TINY,
    (TASK,),
    variants=(FLOW, MSE),
    timed=(),
    rates=(1e-3, 1e-2),
    seeds=(0, 1),
    batch=4,
    draws=4,
    latency_s=0.05,
    latency_samples=5,
    clock_episodes=0,
)
