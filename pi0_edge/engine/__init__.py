"""How the network is run: one small interface, one engine per file."""

from pi0_edge.engine.engine import Engine
from pi0_edge.engine.loading import parameter_shapes
from pi0_edge.engine.registry import (
    ENGINES,
    assemble_engine,
    build_engine,
    check_engine,
    find_engine,
    restore_engine,
)

__all__ = [
    "ENGINES",
    "Engine",
    "assemble_engine",
    "build_engine",
    "check_engine",
    "find_engine",
    "parameter_shapes",
    "restore_engine",
]
