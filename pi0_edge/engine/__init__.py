"""How the network is run: one small interface, one engine per file."""

from pi0_edge.engine.loading import parameter_shapes
from pi0_edge.engine.registry import ENGINES, Engine, assemble_engine, build_engine, check_engine, restore_engine

__all__ = ["ENGINES", "Engine", "assemble_engine", "build_engine", "check_engine", "parameter_shapes", "restore_engine"]
