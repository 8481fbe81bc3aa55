"""Warns of a run that becomes unstable, and stops one that already is."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pi0_edge.errors import TrainingError

RECENT = 100
"""Steps whose gradient norms a new one is compared with."""
LEAST = 20
"""Steps before there is anything to compare with."""
UNUSUAL = 10.0
"""So many times the median norm is worth a warning."""

_log = logging.getLogger(__name__)


class Watch:
    """Looks at loss and gradients of every step before the optimizer uses them."""

    def __init__(self) -> None:
        self._warned = -RECENT

    def check(self, step: int, loss: float, norm: float, earlier: Sequence[float], saved: Path | None) -> None:
        """Returns where the step may be made.

        Args:
            step: Its number.
            loss: Of its batch.
            norm: Of its gradients, before they are cut.
            earlier: Norms of the steps before it.
            saved: The last save of the run, if there is one.

        Raises:
            TrainingError: If loss or norm is not finite.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            rest = f"the weights of {saved} are from before it" if saved else "nothing was saved yet"
            raise TrainingError(
                f"step {step} has the loss {loss:.4g} and gradients of norm {norm:.4g}, expected finite numbers; the "
                f"step was left out, and {rest}. Use a smaller learning rate, or look for such values in the data"
            )
        if len(earlier) < LEAST or step - self._warned < RECENT:
            return
        usual = float(np.median(earlier[-RECENT:]))
        if norm > UNUSUAL * usual:
            self._warned = step
            _log.warning(
                "step %d has gradients of norm %.3g, %.0f times the usual %.3g: the run may become unstable; a smaller "
                "learning rate helps",
                step,
                norm,
                norm / usual if usual else math.inf,
                usual,
            )
