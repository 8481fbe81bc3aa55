"""The reference engine: the model as it is written, in fp32. Every other engine is measured against it."""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from pi0_edge.engine.engine import Engine
from pi0_edge.errors import EngineError
from pi0_edge.model import Continuation, ModelInputs, PolicyNetwork
from pi0_edge.model.flow import EULER_STEPS, euler_times
from pi0_edge.quant.schemes import FP32, Scheme

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
KEPT_BYTES = 2**30
"""More than the largest chunk frees; what the process keeps is at most what was in use at once."""


class ReferenceEngine(Engine):
    """Plain torch, on the device of the model's parameters."""

    name = "reference"
    default_scheme = FP32
    runs_every_head = True
    tells_stages = True

    def __init__(self, model: PolicyNetwork, scheme: Scheme = FP32) -> None:
        """Takes a complete model. From then on the process keeps the memory that it frees: see `keep_freed_memory`.

        Args:
            model: With allocated parameters, in fp32 or quantized under `scheme`.
            scheme: The scheme of its layers.
        """
        self.model = model.eval()
        self.config = model.config
        self.scheme = scheme.name
        self.times = euler_times(EULER_STEPS)
        keep_freed_memory()

    @classmethod
    def check(cls, scheme: Scheme) -> None:
        """As `Engine`."""
        if scheme != FP32:
            raise EngineError(f'the reference engine runs fp32 only, not {scheme.name}; use engine="cpu"')

    @torch.inference_mode()
    def infer(self, inputs: ModelInputs, noise: Tensor, continuation: Continuation | None = None) -> Tensor:
        """As `Engine`.

        Raises:
            QuantizationError: If an activation that is quantized becomes NaN or infinite.
        """
        return self.model.sample_actions(inputs, noise, self.times, continuation, self.on_stage)


@functools.cache
def keep_freed_memory() -> bool:
    """Lets this process keep the memory that one chunk frees for the next one.

    By default glibc returns freed blocks above a threshold to the system and requests new ones in the next layer; the
    system then zeroes and maps each page again. Other C libraries are left as they are.

    Returns:
        Whether the allocator of the C library accepted the setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(threshold, KEPT_BYTES) == 1 for threshold in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD))
