"""The machine code of kernels: from the listing of nvdisasm to the loops that take their time.

Those are the innermost loops with tensor-core instructions. The hot loop has the most of them; products have others,
for the last tile of rows. Loops inside that have none are left out: what they do, as turning the few keys that are new,
is not done in every round.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

INSTRUCTION = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")
LABEL = re.compile(r"(\.L_x?_?\w+):")
TARGET = re.compile(r"BRA.*`\((\.L_\w+)\)")
TENSOR_CORE = ("IMMA", "HMMA", "QMMA")

KINDS = {
    "tensor": TENSOR_CORE,
    "shared memory": ("LDSM", "LDS", "STS"),
    "copies": ("LDGSTS",),
    "float": ("FADD", "FMUL", "FFMA", "FMNMX", "FSETP", "FSEL", "FSET", "HADD2", "HMUL2", "HFMA2", "F2FP", "MUFU"),
    "control": ("BRA", "BSSY", "BSYNC", "EXIT", "WARPSYNC", "CALL", "RET", "NOP", "BAR", "DEPBAR", "LDGDEPBAR"),
}
"""What instructions do, by the first word of their names; all others compute with integers and addresses."""


def functions(listing: str) -> Iterator[tuple[str, list[str]]]:
    """Mangled name and lines of each kernel in a listing of `nvdisasm -c`."""
    for part in re.split(r"\n\s*\.section\s+\.text\.", listing)[1:]:
        name, *lines = part.splitlines()
        yield name.split(",")[0], lines


def operation(instruction: str) -> str:
    """The name of an instruction, with its modifiers, without the predicate before it."""
    words = instruction.split()
    return words[1] if words[0].startswith("@") else words[0]


def base(instruction: str) -> str:
    """The first word of its name."""
    return operation(instruction).split(".")[0]


def product_loops(lines: list[str]) -> list[list[str]]:
    """The instructions of each loop with products, in order, the hot loop first; none without tensor cores."""
    instructions, places = placed(lines)
    loops = loops_of(instructions, places)
    with_products = [loop for loop in loops if products(instructions, loop)]
    innermost = [loop for loop in with_products if not any(within(other, loop) for other in with_products)]
    innermost.sort(key=lambda loop: (-products(instructions, loop), loop[1] - loop[0]))
    return [without_others(instructions, loops, loop) for loop in innermost]


def within(loop: tuple[int, int], outer: tuple[int, int]) -> bool:
    """A loop lies in another one."""
    return loop != outer and outer[0] <= loop[0] and loop[1] <= outer[1]


def without_others(instructions: list[str], loops: list[tuple[int, int]], loop: tuple[int, int]) -> list[str]:
    """The instructions of a loop but for those of loops inside."""
    inner = [each for each in loops if within(each, loop)]
    places = range(loop[0], loop[1] + 1)
    return [instructions[at] for at in places if not any(begin <= at <= end for begin, end in inner)]


def placed(lines: list[str]) -> tuple[list[str], dict[str, int]]:
    """All instructions of a kernel, and for each label the number of the instruction that it stands before."""
    instructions: list[str] = []
    places: dict[str, int] = {}
    for line in lines:
        if label := LABEL.match(line):
            places[label[1]] = len(instructions)
        elif found := INSTRUCTION.match(line):
            instructions.append(found[2])
    return instructions, places


def loops_of(instructions: list[str], places: dict[str, int]) -> list[tuple[int, int]]:
    """First and last instruction of every loop: a branch backwards and where it goes."""
    targets = ((at, TARGET.search(text)) for at, text in enumerate(instructions))
    jumps = ((places.get(target[1], at + 1), at) for at, target in targets if target)
    return [(begin, end) for begin, end in jumps if begin < end]


def products(instructions: list[str], loop: tuple[int, int]) -> int:
    """How many tensor-core instructions a loop has."""
    return sum(base(text) in TENSOR_CORE for text in instructions[loop[0] : loop[1] + 1])


def kinds(loop: list[str]) -> Counter[str]:
    """How many instructions of each kind a loop has; `integer` are those of no other."""
    kind_of = {name: kind for kind, names in KINDS.items() for name in names}
    return Counter(kind_of.get(base(text), "integer") for text in loop)
