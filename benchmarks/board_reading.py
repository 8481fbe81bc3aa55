"""What it costs to read the state of a board, and to watch it: `python -m benchmarks.board_reading`.

The recorded boards of `tests/data/boards` are laid out as plain files. A sensor of a real board answers more slowly, as
its kernel asks a chip over a bus: that is waiting, and not time of a processor, which is what is told here.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.machine import describe_machine
from pi0_edge.bench.watching import BoardWatcher
from pi0_edge.board.readings import Board

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "apparatus"))

from recorded_boards import NAMES, lay_out

CALLS = 200
WATCHED_S = 20.0


def main() -> None:
    """Prints the table."""
    for name, value in describe_machine().items():
        print(f"{name}: {value}")
    print("\nmilliseconds of a processor    whole state    with processes    rails and alerts")
    with tempfile.TemporaryDirectory() as folder:
        boards = {name: Board(lay_out(name, Path(folder) / name)) for name in NAMES}
        for name, board in {**boards, "this machine": Board()}.items():
            whole = cost_ms(lambda board=board: board.state(processes=False))
            processes = cost_ms(board.state)
            print(f"{name:30s} {whole:11.3f} {processes:17.3f} {cost_ms(board.quick_state):19.3f}")
        print(f"\nprocesses on this machine: {sum(path.name.isdigit() for path in Path('/proc').iterdir())}")
        for name, board in {"agx-orin": boards["agx-orin"], "this machine": Board()}.items():
            watcher = BoardWatcher(board)
            with watcher:
                time.sleep(WATCHED_S)
            share = 100 * watcher.thread_s / WATCHED_S
            print(
                f"watching {name} for {WATCHED_S:g} s: {share:.3f} % of a processor, {len(watcher.readings)} readings"
            )


def cost_ms(call: Callable[[], object]) -> float:
    """Processor time of a call, after a first one that finds the sensors."""
    call()
    began = time.thread_time()
    for _ in range(CALLS):
        call()
    return (time.thread_time() - began) / CALLS * 1e3


if __name__ == "__main__":
    main()
