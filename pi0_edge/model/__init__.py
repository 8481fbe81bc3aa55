"""π0 and π0.5 in plain torch.

`config` holds the sizes, `siglip` the vision tower, `gemma` the transformer layers that prefix and action expert
share, `flow` the time convention and the Euler schedules, `continuation` real-time chunking, and `pi0` the policy
network that joins them.
"""

from pi0_edge.model.config import PRESETS, Decoding, GemmaConfig, Head, Pi0Config, VisionConfig
from pi0_edge.model.inputs import ModelInputs
from pi0_edge.model.pi0 import Pi0, PolicyNetwork
from pi0_edge.model.rtc import Continuation, FrozenPrefix, Guidance

__all__ = [
    "PRESETS",
    "Continuation",
    "Decoding",
    "FrozenPrefix",
    "GemmaConfig",
    "Guidance",
    "Head",
    "ModelInputs",
    "Pi0",
    "Pi0Config",
    "PolicyNetwork",
    "VisionConfig",
]
