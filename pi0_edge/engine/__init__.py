"""How the network is run: one small interface, one engine per file."""

from pi0_edge.engine.base import ENGINES, Engine, build_engine

__all__ = ["ENGINES", "Engine", "build_engine"]
