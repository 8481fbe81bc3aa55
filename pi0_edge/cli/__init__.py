"""The command line `pi0-edge`: one file per command, and nothing else than what a person types and reads.

Commands import what they need when they run, so that `--help` answers at once and `bridge` runs without torch.
"""

from pi0_edge.cli.app import main

__all__ = ["main"]
