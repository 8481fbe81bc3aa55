"""The command line of pi0-edge with an engine that has a fault: `faulty_policy.py FAULT -m pi0_edge.cli ARGUMENTS`.

| fault    | what happens                                               |
|----------|------------------------------------------------------------|
| exits    | the process ends before it serves                          |
| hangs    | the first inference that a client asks for never ends      |
| slow     | each inference takes 0.6 s longer                          |
| crashes  | the process ends in the first inference of a client        |
| unready  | the first inference of all, before the port opens, hangs   |
| starts-slowly | it takes 12 s, and nothing else is wrong              |
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

WARM_UP = 2
"""Inferences before the port opens."""


def break_engine(fault: str) -> None:
    """Puts the fault in."""
    from pi0_edge.engine.cpu import CpuEngine

    right, calls = CpuEngine.infer, 0

    def infer(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        of_client = calls > WARM_UP
        if fault == "starts-slowly" and calls == 1:
            time.sleep(12)
        if fault == "unready" or (fault == "hangs" and of_client):
            time.sleep(3600)
        if fault == "crashes" and of_client:
            os.abort()
        if fault == "slow" and of_client:
            time.sleep(0.6)
        return right(*arguments)

    setattr(CpuEngine, "infer", infer)  # noqa: B010


if __name__ == "__main__":
    fault, dash, module, *given = sys.argv[1:]
    assert (dash, module) == ("-m", "pi0_edge.cli"), sys.argv
    if fault == "exits":
        sys.exit(1)
    from pi0_edge.cli import main

    break_engine(fault)
    sys.exit(main(given))
