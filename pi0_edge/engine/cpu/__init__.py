"""The CPU engine: quantized layers in integer arithmetic, whole stacks of them in one call of the C library."""

from pi0_edge.engine.cpu.engine import CpuEngine

__all__ = ["CpuEngine"]
