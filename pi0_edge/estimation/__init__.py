"""What a chunk will cost on a device that is not here: time per stage, launches and memory, from data sheets and work.

`work` lists the kernels of one chunk with their operations and bytes, computed from the sizes of a network and a
scheme. `devices` knows what a device can do and where each figure comes from (`devices.yaml`). `kernel_times` finds the
time of one kernel, of ours on Orin from their machine code (`kernel_cycles.csv`). `chunk` adds them up, with a low and
a high, and `calibration` holds the sum to a measurement. `published.csv` holds what others measured; the tests
hold floors and expectations to it.
"""

from pi0_edge.estimation.chunk import ChunkEstimate, StageEstimate, estimate, estimate_chunk
from pi0_edge.estimation.devices import Device, devices, find_device

__all__ = ["ChunkEstimate", "Device", "StageEstimate", "devices", "estimate", "estimate_chunk", "find_device"]
