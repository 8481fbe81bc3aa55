"""Whether this robot is the one that the policy was trained on; see docs/mismatch.md."""

from pi0_edge.run.mismatch.guard import MismatchGuard
from pi0_edge.run.mismatch.rules import RULES, Mismatch

__all__ = ["RULES", "Mismatch", "MismatchGuard"]
