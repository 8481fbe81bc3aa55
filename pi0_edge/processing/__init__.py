"""From a robot's images, joint state and prompt to the inputs of the network, and from its actions back to its units.

    observation ─ images: resize with padding, [-1, 1]            ┐
                ─ state: robot transform, normalization, padding  ┼─► ModelInputs
                ─ prompt: cleaning, tokens (π0.5: with the state) ┘
    actions ◄─ robot transform ◄─ absolute ◄─ unnormalization ◄─ normalized chunk

The order is openpi's; every step is a module of its own and `processor` joins them. Robots are data (`robots/*.yaml`).
Every observation is checked here, once, so that the network and the engines never get a bad one.
"""

from pi0_edge.processing.loading import load_processor
from pi0_edge.processing.norm_stats import load_norm_stats, save_norm_stats
from pi0_edge.processing.normalization import Mode, Normalization, Normalizer
from pi0_edge.processing.observation import Observation
from pi0_edge.processing.processor import ObservationProcessor
from pi0_edge.processing.rtc import Method, RunningPlan, Schedule, continuation
from pi0_edge.processing.tokenizer import Tokenizer, load_tokenizer
from pi0_edge.robots import Robot, load_robot, robot_names

__all__ = [
    "Method",
    "Mode",
    "Normalization",
    "Normalizer",
    "Observation",
    "ObservationProcessor",
    "Robot",
    "RunningPlan",
    "Schedule",
    "Tokenizer",
    "continuation",
    "load_norm_stats",
    "load_processor",
    "load_robot",
    "load_tokenizer",
    "robot_names",
    "save_norm_stats",
]
