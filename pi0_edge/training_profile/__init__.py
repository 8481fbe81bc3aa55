"""What the training data of a policy looked like: a small file that goes with a policy, see docs/mismatch.md.

profile = load_training_profile("checkpoint/training_profile.json")
"""

from pi0_edge.training_profile.collecting import LEAST_EPISODES, TrainingEpisode, collect_profile
from pi0_edge.training_profile.profile import (
    NAME,
    CameraProfile,
    JointProfile,
    TrainingProfile,
    find_training_profile,
    load_training_profile,
)

__all__ = [
    "LEAST_EPISODES",
    "NAME",
    "CameraProfile",
    "JointProfile",
    "TrainingEpisode",
    "TrainingProfile",
    "collect_profile",
    "find_training_profile",
    "load_training_profile",
]
