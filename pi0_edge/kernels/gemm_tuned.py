"""Plans of matrix products that a GPU has measured, which go before the model of `gemm_plan`.

One file per kind of GPU, `plans/sm_<capability>_<multiprocessors>.json` beside this module: two boards of the same
architecture and of different size want different plans. `python -m benchmarks.kernels_gemm --tune` writes the file of
the GPU that it runs on, the operators of `gemm` read it, and where there is none the model chooses.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from pathlib import Path

from pi0_edge.errors import KernelError
from pi0_edge.kernels.gemm_plan import Measured, candidates

FOLDER = Path(__file__).parent / "plans"


def tuned_path(capability: tuple[int, int], multiprocessors: int) -> Path:
    """The file of a kind of GPU, whether it is there or not."""
    return FOLDER / f"sm_{capability[0]}{capability[1]}_{multiprocessors}.json"


def write_tuned(path: Path, plans: Iterable[Measured]) -> None:
    """Writes a file of `tuned_path`, one plan per line; what was in it is replaced."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(asdict(plan)) for plan in plans) + "\n]\n")


@cache
def tuned_plans(capability: tuple[int, int], multiprocessors: int) -> tuple[Measured, ...]:
    """What was measured on this kind of GPU; nothing where there is no file.

    Raises:
        KernelError: If the file is damaged, or has a plan that the kernels of this version do not know.
    """
    path = tuned_path(capability, multiprocessors)
    if not path.is_file():
        return ()
    try:
        plans = tuple(Measured(**fields) for fields in json.loads(path.read_text()))
        for plan in plans:
            known = candidates(plan.m, plan.n, plan.k, multiprocessors, plan.fp8)
            if (plan.tile, plan.blocks) not in {(each.tile, each.blocks) for each in known}:
                raise ValueError(f"{plan} is not possible")
    except (OSError, TypeError, ValueError) as error:
        raise KernelError(
            f"{path.name} does not hold plans of these kernels: {error}; "
            "delete it, or measure again: python -m benchmarks.kernels_gemm --tune"
        ) from error
    return plans
