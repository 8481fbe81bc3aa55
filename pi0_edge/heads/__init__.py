"""Action heads other than π0's flow matching, on the same vision tower, prefix, state token and transformer.

They exist to be compared with it (docs/action-heads.md): trained, evaluated, served and played in the same way.

| head      | makes a chunk by                                                     | after                         |
|-----------|----------------------------------------------------------------------|-------------------------------|
| `flow`    | flow matching, Euler steps of the transformer (`pi0_edge.model.Pi0`) | π0, arXiv 2410.24164          |
| `rt2`     | one of 256 bins per number, each after the ones before it            | RT-2 (2307.15818), OpenVLA    |
| `octo`    | one readout token, then diffusion by a small MLP over the flat chunk | Octo, arXiv 2405.12213        |
| `tinyvla` | one readout token, then diffusion by a one-dimensional U-Net         | TinyVLA, arXiv 2409.12514     |
| `mse`     | one readout token and one linear layer, trained on the squared error | Octo's continuous head        |

All of them are re-implementations on a small shared backbone. What they measure are heads, not RT-2, Octo or TinyVLA.
"""

from pi0_edge.heads.build import HEADS, Published, build_network, fit_actions, require_flow, training_times
from pi0_edge.heads.counting import Calls, parameter_counts, sequential_calls

__all__ = [
    "HEADS",
    "Calls",
    "Published",
    "build_network",
    "fit_actions",
    "parameter_counts",
    "require_flow",
    "sequential_calls",
    "training_times",
]
