"""How much flash, RAM and stack the image of each board needs: `python -m firmware_bridge.firmware.board_sizes`.

The worst-case stack is computed, not measured: the deepest chain of calls from `main`, plus one interrupt of each
priority at its own deepest chain, each with the frame that the processor saves. Frames are those of the compiler
(`-fcallgraph-info=su`); of the functions of the C library and of libgcc, which it did not compile here, they are read
from the disassembly. No function in the core calls itself, and one call goes through a pointer: to `is_work_waiting`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from firmware_bridge.errors import BridgeError

FIRMWARE = Path(__file__).parent
CROSS = "arm-none-eabi-"
_THROUGH_POINTER = {"__indirect_call": "core/application.c:is_work_waiting"}
_SAVED_BY_CORE, _SAVED_WITH_FPU, _ALIGNMENT = 32, 104, 4


class SizesError(BridgeError):
    """An image cannot be built or read."""


@dataclass(frozen=True)
class Board:
    """A board and its interrupts, by rising priority; interrupts of one priority cannot interrupt each other.

    Attributes:
        saved: Bytes that the processor saves when an interrupt begins.
    """

    name: str
    title: str
    flash: int
    ram: int
    interrupts: tuple[tuple[str, ...], ...]
    saved: int = _SAVED_BY_CORE + _ALIGNMENT


BOARDS = (
    Board(
        "lm3s6965evb",
        "LM3S6965 (QEMU)",
        256,
        64,
        (("servo_alarm_handler",), ("uart1_handler", "uart2_handler"), ("uart0_handler",), ("watchdog_handler",)),
    ),
    Board(
        "rp2040",
        "RP2040 (Raspberry Pi Pico)",
        2048,
        256,
        (("servo_alarm_handler",), ("uart1_handler",), ("uart0_handler",)),
    ),
    Board(
        "stm32f4",
        "STM32F446 (Nucleo)",
        512,
        128,
        (("servo_alarm_handler",), ("usart2_handler", "dma1_stream5_handler")),
        _SAVED_WITH_FPU + _ALIGNMENT,
    ),
)


@dataclass
class CallGraph:
    """Bytes of stack of each function, and what it calls."""

    frames: dict[str, int] = field(default_factory=dict)
    calls: dict[str, set[str]] = field(default_factory=dict)

    def deepest(self, function: str, above: tuple[str, ...] = ()) -> int:
        """Bytes of stack from the call of `function` on.

        Raises:
            SizesError: The function calls itself.
        """
        function = _THROUGH_POINTER.get(function, function)
        if function in above:
            raise SizesError(f"{function} calls itself: its stack has no bound")
        if function not in self.frames:
            return 0  # not in the image: the compiler removed the call
        below = (self.deepest(called, (*above, function)) for called in self.calls.get(function, ()))
        return self.frames[function] + max(below, default=0)


def read_call_graph(folder: Path) -> CallGraph:
    """The call graph of the image in `folder`, from what the compiler wrote beside each object."""
    graph = disassembled(folder / "firmware.elf")
    for path in folder.rglob("*.ci"):
        text = path.read_text()
        for name, size, kind in re.findall(r'node: \{ title: "([^"]+)" label: "[^"]*?(\d+) bytes \((\w+)', text):
            if kind != "static":
                raise SizesError(f"the stack of {name} is not bounded")
            graph.frames[name] = int(size)
            graph.calls[name] = set()
        for caller, called in re.findall(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"', text):
            graph.calls.setdefault(caller, set()).add(called)
    return graph


def disassembled(image: Path) -> CallGraph:
    """Frames and calls as the instructions show them; good enough for functions without variable frames."""
    listing = _run(f"{CROSS}objdump", "-d", "--no-show-raw-insn", str(image))
    graph, name, at = CallGraph(), "", {}
    for line in listing.splitlines():
        if head := re.match(r"([0-9a-f]+) <([^>]+)>:", line):
            name = at[int(head[1], 16)] = head[2]
            graph.frames[name], graph.calls[name] = 0, set()
        elif name:
            graph.frames[name] += _pushed(line)
            if call := re.search(r"\tb[a-z.]*\t[0-9a-f]+ <([^>+]+)>", line):
                graph.calls[name] |= {call[1]} - {name}
    for address, alias in re.findall(r"^([0-9a-f]+) [TtWw] (\w+)$", _run(f"{CROSS}nm", str(image)), re.MULTILINE):
        shown = at.get(int(address, 16) & ~1)
        if shown is not None and alias not in graph.frames:
            graph.frames[alias], graph.calls[alias] = 0, {shown}
    return graph


def _pushed(line: str) -> int:
    if pushed := re.search(r"\t(?:push|stmdb\tsp!,|vpush)\s*\{([^}]*)\}", line):
        width = 8 if re.search(r"\bd\d", pushed[1]) else 4
        return width * sum(_count(part) for part in pushed[1].split(","))
    if reserved := re.search(r"\tsub(?:\.w)?\tsp, (?:sp, )?#(\d+)", line):
        return int(reserved[1])
    return 4 if re.search(r"\tstr(?:\.w)?\t\w+, \[sp, #-4\]!", line) else 0


def _count(part: str) -> int:
    numbers = re.findall(r"[rds](\d+)", part)
    return int(numbers[1]) - int(numbers[0]) + 1 if len(numbers) == 2 else 1


def _run(*argv: str) -> str:
    try:
        ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise SizesError(f"{argv[0]} is not installed; run `make setup`") from error
    if ran.returncode != 0:
        raise SizesError(f"{' '.join(argv)}: {ran.stderr.strip()}")
    return ran.stdout


@dataclass(frozen=True)
class Sizes:
    """Bytes; `ram` without the stack."""

    flash: int
    ram: int
    stack: int


@cache
def measure(board: Board, robot: str = "aloha", actuators: str = "simulated") -> Sizes:
    """Build the image of a board with a back end and measure it.

    Raises:
        SizesError: The compiler is missing, or the image does not build: a robot with more servo buses than the board,
            for example.
    """
    build = "build" if actuators == "simulated" else f"build/{actuators}_{robot}"
    choice = (f"ROBOT={robot}", f"ACTUATORS={actuators}", f"BUILD={build}")
    _run("make", "-s", "-C", str(FIRMWARE), board.name, *choice)
    folder = FIRMWARE / build / board.name
    sections = _run(f"{CROSS}size", "-A", str(folder / "firmware.elf"))
    size = {name: int(count) for name, count in re.findall(r"^(\.\w[\w.]*)\s+(\d+)", sections, re.MULTILINE)}
    graph = read_call_graph(folder)
    nested = sum(board.saved + max(map(graph.deepest, handlers)) for handlers in board.interrupts)
    flash = sum(size.get(name, 0) for name in (".boot2", ".text", ".ARM.exidx", ".data"))
    ram = sum(size.get(name, 0) for name in (".data", ".bss", ".noinit"))
    return Sizes(flash, ram, graph.deepest("reset_handler") + nested)


def main() -> int:
    """Prints the table of all boards."""
    parser = argparse.ArgumentParser(prog="board_sizes", description="Flash, RAM and worst-case stack of each board.")
    parser.add_argument("--robot", default="aloha", help="joint table that is compiled in (default aloha)")
    parser.add_argument("--actuators", default="simulated", help="back end that is linked in (default simulated)")
    parser.add_argument("--board", choices=[board.name for board in BOARDS], help="this one alone")
    options = parser.parse_args()
    boards = [board for board in BOARDS if options.board in (None, board.name)]
    try:
        rows = [(board, measure(board, options.robot, options.actuators)) for board in boards]
    except SizesError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write("| board | flash | RAM | worst-case stack |\n|---|---|---|---|\n")
    for board, sizes in rows:
        sys.stdout.write(
            f"| {board.title} | {sizes.flash} of {board.flash * 1024} | {sizes.ram} of {board.ram * 1024} "
            f"| {sizes.stack} of 4096 |\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
