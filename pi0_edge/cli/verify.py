"""`pi0-edge verify`: is this export the same network as the one that made the recorded outputs?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pi0_edge.cli.options import EngineOption, JsonOption, SchemeOption, SizesOption, ThreadsOption
from pi0_edge.cli.output import Output


def verify(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint file or folder of any known layout.")],
    inputs: Annotated[Path, typer.Option(help="Recorded inputs and noise (.npz).")],
    expected: Annotated[Path, typer.Option(help="Outputs of the other implementation (.safetensors).")],
    sizes: SizesOption = None,
    engine: EngineOption = "reference",
    scheme: SchemeOption = None,
    tolerance: Annotated[float | None, typer.Option(help="Largest allowed difference; else by scheme.")] = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a checkpoint with recorded outputs.

    The outputs come from another implementation; exit code 1 where one differs by more than the tolerance.
    """
    from pi0_edge.cli.loading import use_threads
    from pi0_edge.engine import check_engine
    from pi0_edge.quant.scheme_files import load_scheme
    from pi0_edge.verification import verify as compare

    chosen = None if scheme is None else load_scheme(scheme)
    check_engine(engine, chosen)
    use_threads(threads)
    differences = compare(checkpoint, inputs, expected, sizes, engine, chosen, tolerance)
    passed = all(difference.passed for difference in differences)
    out = Output(as_json)
    rows = [(d.output, d.largest, d.tolerance, "pass" if d.passed else "FAIL") for d in differences]
    out.table(f"{checkpoint} ({scheme or engine})", ("output", "largest difference", "tolerance", "result"), rows)
    out.print("PASS" if passed else "FAIL: at least one output differs by more than the tolerance")
    outputs = {d.output: {"largest": d.largest, "tolerance": d.tolerance, "passed": d.passed} for d in differences}
    out.finish({"passed": passed, "engine": engine, "scheme": scheme, "outputs": outputs})
    if not passed:
        raise typer.Exit(1)
