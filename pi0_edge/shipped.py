"""The folder of the policy that comes with the package."""

from __future__ import annotations

from pathlib import Path

from pi0_edge.errors import CheckpointError

SHIPPED = Path(__file__).parent / "assets" / "pi0_cube_transfer"


def shipped_checkpoint() -> Path:
    """The folder of the trained cube-transfer policy.

    Raises:
        CheckpointError: If this copy of the package lacks it.
    """
    if not (SHIPPED / "model.safetensors").is_file():
        raise CheckpointError(
            f"{SHIPPED} holds no trained policy; expected model.safetensors there: install the whole package, "
            "or give --checkpoint (`pi0-edge record` and `pi0-edge train` make one)"
        )
    return SHIPPED
