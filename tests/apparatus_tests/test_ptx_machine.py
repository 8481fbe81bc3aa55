"""The instructions of the PTX machine against the manual, in other words than its own: Python integers and matrices."""

import math
import struct
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ptx_kernels import PtxLibrary, machine
from torch import Tensor

from pi0_edge.errors import KernelError

pytestmark = pytest.mark.ptx

LANES = 32
WORD = st.integers(0, 2**32 - 1)
NUMBERS = st.floats(width=32, allow_nan=True, allow_infinity=True)
FEW = settings(max_examples=60, deadline=None)


def kernel(*instructions: str, shared: str = "") -> str:
    """A kernel `test` with one word in and out per lane in %r1..%r3 and %r0, and whatever is between."""
    loads = "\n".join(
        f"ld.param.u64 %rd{i}, [p{i}]; add.s64 %rd{i}, %rd{i}, %rd9; ld.global.u32 %r{i}, [%rd{i}];" for i in (1, 2, 3)
    )
    body = "\n".join(instructions)
    return f"""{shared}
.visible .entry test(.param .u64 p0, .param .u64 p1, .param .u64 p2, .param .u64 p3)
{{
 .reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<99>; .reg .f32 %f<9>; .reg .b64 %rd<19>;
 mov.u32 %r9, %tid.x; mul.wide.u32 %rd9, %r9, 4;
 {loads}
 {body}
 ld.param.u64 %rd0, [p0]; add.s64 %rd0, %rd0, %rd9; st.global.u32 [%rd0], %r0;
 ret;
}}
"""


@given(st.lists(WORD, min_size=LANES, max_size=LANES), st.sampled_from(["s32", "u32", "s16", "u16", "s8", "u8"]))
@FEW
def test_a_load_into_a_wider_register_extends_the_number(library: PtxLibrary, words: list[int], kind: str):
    bits = int(kind[1:])
    library.load(kernel(f"ld.global.{kind} %rd4, [%rd1]; mov.b64 {{%r0, %r4}}, %rd4;"))
    high = kernel(f"ld.global.{kind} %rd4, [%rd1]; mov.b64 {{%r4, %r0}}, %rd4;")
    out, nothing = torch.zeros(LANES, dtype=torch.int32), torch.zeros(LANES, dtype=torch.int32)
    library.run("test", 1, LANES, 0, out, as_words(words), nothing, nothing)
    cut = [word & (1 << bits) - 1 for word in words]
    expected = [signed(each, bits) if kind[0] == "s" else each for each in cut]
    assert out.tolist() == [signed(each & 0xFFFFFFFF) for each in expected]
    library.load(high)
    library.run("test", 1, LANES, 0, out, as_words(words), nothing, nothing)
    assert out.tolist() == [-1 if each < 0 else 0 for each in expected]


def signed(word: int, bits: int = 32) -> int:
    return word - (1 << bits) if word >> (bits - 1) else word


def number(word: int) -> float:
    return struct.unpack("f", struct.pack("I", word))[0]


def word(value: float) -> int:
    """Rounded to float32; what is too large becomes infinite, as in hardware."""
    return int(torch.tensor(value, dtype=torch.float64).float().view(torch.int32)) & 0xFFFFFFFF


def as_words(values: list[int]) -> Tensor:
    return torch.tensor([signed(value) for value in values], dtype=torch.int32)


@pytest.fixture(scope="module")
def library() -> PtxLibrary:
    return machine()


def run(library: PtxLibrary, *columns: list[int]) -> list[int]:
    """What the lanes store that get these words."""
    out, given = torch.zeros(LANES, dtype=torch.int32), [as_words(column) for column in columns]
    given += [torch.zeros(LANES, dtype=torch.int32)] * (3 - len(given))
    library.run("test", 1, LANES, 1024, out, *given)
    return [value & 0xFFFFFFFF for value in out.tolist()]


def permuted(low: int, high: int, selector: int) -> int:
    chosen = (low.to_bytes(4, "little") + high.to_bytes(4, "little"))[:8]
    digits = [selector >> 4 * i & 15 for i in range(4)]
    found = [chosen[digit & 7] if digit < 8 else 255 * (chosen[digit & 7] >> 7) for digit in digits]
    return int.from_bytes(bytes(found), "little")


def inserted(f: int, g: int, position: int, length: int) -> int:
    """Bit by bit, as the manual's loop does."""
    for i in range(min(length & 255, 64)):
        at = (position & 255) + i
        if at < 32 and i < 32:
            g = g & ~(1 << at) | (f >> i & 1) << at
    return g


INTEGER: dict[str, Callable[[int, int, int], int]] = {
    "add.s32 %r0, %r1, %r2": lambda a, b, c: a + b,
    "sub.s32 %r0, %r1, %r2": lambda a, b, c: a - b,
    "mul.lo.s32 %r0, %r1, %r2": lambda a, b, c: a * b,
    "mul.hi.s32 %r0, %r1, %r2": lambda a, b, c: signed(a) * signed(b) >> 32,
    "mad.lo.s32 %r0, %r1, %r2, %r3": lambda a, b, c: a * b + c,
    "and.b32 %r0, %r1, %r2": lambda a, b, c: a & b,
    "or.b32 %r0, %r1, %r2": lambda a, b, c: a | b,
    "xor.b32 %r0, %r1, %r2": lambda a, b, c: a ^ b,
    "not.b32 %r0, %r1": lambda a, b, c: ~a,
    "neg.s32 %r0, %r1": lambda a, b, c: -a,
    "shl.b32 %r0, %r1, %r2": lambda a, b, c: a << min(b, 32),
    "shr.u32 %r0, %r1, %r2": lambda a, b, c: a >> min(b, 32),
    "shr.s32 %r0, %r1, %r2": lambda a, b, c: signed(a) >> min(b, 31),
    "min.s32 %r0, %r1, %r2": lambda a, b, c: min(signed(a), signed(b)),
    "max.u32 %r0, %r1, %r2": lambda a, b, c: max(a, b),
    "prmt.b32 %r0, %r1, %r2, %r3": permuted,
    "bfi.b32 %r0, %r1, %r2, %r3, 7": lambda a, b, c: inserted(a, b, c, 7),
    "cvt.s32.s8 %r0, %r1": lambda a, b, c: signed(a & 255, 8),
    "cvt.u32.u16 %r0, %r1": lambda a, b, c: a & 65535,
    "mul.wide.s32 %rd5, %r1, %r2; shr.s64 %rd6, %rd5, 31; cvt.u32.u64 %r0, %rd6": lambda a, b, c: (
        signed(a) * signed(b) >> 31
    ),
    "cvt.s64.s32 %rd5, %r1; add.s64 %rd6, %rd5, -5; shr.u64 %rd7, %rd6, 4; cvt.u32.u64 %r0, %rd7": lambda a, b, c: (
        (signed(a) - 5) % 2**64 >> 4
    ),
    "mov.b32 {%rs1, %rs2}, %r1; mov.b32 %r0, {%rs2, %rs1}": lambda a, b, c: a >> 16 | (a & 65535) << 16,
    "setp.lt.s32 %p1, %r1, %r2; selp.b32 %r0, %r3, 7, %p1": lambda a, b, c: c if signed(a) < signed(b) else 7,
    "setp.ge.u32 %p1, %r1, %r2; mov.u32 %r0, 5; @%p1 mov.u32 %r0, %r3": lambda a, b, c: c if a >= b else 5,
    "setp.ne.s32 %p1, %r1, %r2; not.pred %p2, %p1; mov.u32 %r0, 5; @!%p2 mov.u32 %r0, %r3": lambda a, b, c: (
        c if a != b else 5
    ),
}


@pytest.mark.parametrize("instruction", INTEGER)
@FEW
@given(data=st.data())
def test_integers(library: PtxLibrary, instruction: str, data: st.DataObject):
    library.load(kernel(f"{instruction};"))
    small = st.integers(0, 40)
    columns = [data.draw(st.lists(WORD | small, min_size=LANES, max_size=LANES)) for _ in range(3)]
    expected = [INTEGER[instruction](*given) % 2**32 for given in zip(*columns, strict=True)]
    assert run(library, *columns) == expected


def quotient(a: float, b: float) -> float:
    if b:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)


def maximum(a: float, b: float) -> float:
    return b if math.isnan(a) else a if math.isnan(b) else max(a, b)


FLOAT: dict[str, Callable[[float, float], float]] = {
    "add.f32 %f0, %f1, %f2": lambda a, b: a + b,
    "sub.f32 %f0, %f1, %f2": lambda a, b: a - b,
    "mul.rn.f32 %f0, %f1, %f2": lambda a, b: a * b,
    "div.rn.f32 %f0, %f1, %f2": quotient,
    "abs.f32 %f0, %f1": lambda a, b: abs(a),
    "max.f32 %f0, %f1, %f2": maximum,
    "max.NaN.f32 %f0, %f1, %f2": lambda a, b: math.nan if math.isnan(a) or math.isnan(b) else max(a, b),
    "setp.geu.f32 %p1, %f1, %f2; selp.f32 %f0, 0f3F800000, 0f00000000, %p1": lambda a, b: float(not a < b),
    "setp.ne.f32 %p1, %f1, %f2; selp.f32 %f0, 0f3F800000, 0f00000000, %p1": lambda a, b: float(
        a != b and a == a and b == b
    ),
}


@pytest.mark.parametrize("instruction", FLOAT)
@FEW
@given(data=st.data())
def test_floats(library: PtxLibrary, instruction: str, data: st.DataObject):
    """Rounded once: what float64 makes of +, -, · and / of two float32 rounds to float32 as the exact result does."""
    library.load(kernel("mov.b32 %f1, %r1; mov.b32 %f2, %r2;", f"{instruction};", "mov.b32 %r0, %f0;"))
    columns = [data.draw(st.lists(NUMBERS, min_size=LANES, max_size=LANES)) for _ in range(2)]
    found = [number(each) for each in run(library, *([word(value) for value in column] for column in columns))]
    for a, b, got in zip(*columns, found, strict=True):
        wanted = number(word(FLOAT[instruction](a, b)))
        assert got == wanted or (math.isnan(got) and math.isnan(wanted)), (a, b)


CONVERSIONS = {
    "cvt.rn.bf16.f32 %rs1, %f1; cvt.u32.u16 %r0, %rs1": torch.bfloat16,
    "cvt.rn.f16.f32 %rs1, %f1; cvt.u32.u16 %r0, %rs1": torch.float16,
}


@pytest.mark.parametrize("instruction", CONVERSIONS)
@FEW
@given(values=st.lists(NUMBERS, min_size=LANES, max_size=LANES))
def test_rounding_to_16_bits_is_that_of_torch(library: PtxLibrary, instruction: str, values: list[float]):
    library.load(kernel("mov.b32 %f1, %r1;", f"{instruction};"))
    found = torch.tensor(run(library, [word(value) for value in values])).to(torch.int16).view(CONVERSIONS[instruction])
    expected = torch.tensor(values).to(CONVERSIONS[instruction])
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(0.0), expected.nan_to_num(0.0))


def bf16(bits: int) -> float:
    return number(bits << 16)


def nearest_bf16(exact: Fraction) -> int:
    """Bits of the nearest number that is not zero or infinite, ties to even, by fractions."""
    bits = word(float(abs(exact))) >> 16
    around = range(max(bits - 1, 0), bits + 2)
    return min(around, key=lambda each: (abs(Fraction(bf16(each)) - abs(exact)), each & 1)) | (exact < 0) << 15


MODERATE = st.integers(0x3000, 0x4EFF) | st.integers(0xB000, 0xCEFF)
"""bf16 from 2⁻³¹ to 2³¹: products and sums stay far from the ends, and one may be 2⁹³ times the other."""


@FEW
@given(data=st.data())
def test_a_fused_product_and_sum_of_bf16_rounds_once(library: PtxLibrary, data: st.DataObject):
    library.load(kernel("fma.rn.bf16x2 %r0, %r1, %r2, %r3;"))
    columns = [data.draw(st.lists(MODERATE, min_size=LANES, max_size=LANES)) for _ in range(3)]
    found = run(library, *([bits << 16 | bits for bits in column] for column in columns))
    for a, b, c, got in zip(*columns, found, strict=True):
        exact = Fraction(bf16(a)) * Fraction(bf16(b)) + Fraction(bf16(c))
        wanted = nearest_bf16(exact) if exact else 0
        assert got == wanted << 16 | wanted, (hex(a), hex(b), hex(c))


@pytest.mark.parametrize("little", [2.0**-8, 2.0**-18, 2.0**-31, 2.0**-60, 2.0**-126])
@pytest.mark.parametrize("sign", [1, -1])
def test_what_lies_beside_the_middle_of_two_bf16_goes_to_the_nearer(library: PtxLibrary, little: float, sign: int):
    """(1 + 2⁻⁷)(1 + 2⁻¹) = 1.51171875 lies between 1.5078125 and 1.515625; float or double lose a small summand."""
    library.load(kernel("fma.rn.bf16x2 %r0, %r1, %r2, %r3;"))
    a, b, c = (word(value) >> 16 for value in (1 + 2.0**-7, 1.5, sign * little))
    assert Fraction(bf16(a)) * Fraction(bf16(b)) == (Fraction(1.5078125) + Fraction(1.515625)) / 2
    (got,) = set(run(library, *([bits << 16 | bits] * LANES for bits in (a, b, c))))
    wanted = word(1.515625 if sign > 0 else 1.5078125) >> 16
    assert got == wanted << 16 | wanted


@FEW
@given(values=st.lists(NUMBERS, min_size=LANES, max_size=LANES))
def test_rounding_to_integers_goes_to_even_and_stops_at_the_ends(library: PtxLibrary, values: list[float]):
    library.load(kernel("mov.b32 %f1, %r1; cvt.rni.s32.f32 %r0, %f1;"))
    expected = [0 if math.isnan(x) else max(-(2**31), min(2**31 - 1, round(max(-1e12, min(1e12, x))))) for x in values]
    assert [signed(each) for each in run(library, [word(value) for value in values])] == expected


@pytest.mark.parametrize("distance", [1, 2, 4, 8, 16])
def test_a_shuffle_exchanges_lanes(library: PtxLibrary, distance: int):
    library.load(kernel(f"shfl.sync.bfly.b32 %r0|%p1, %r1, {distance}, 31, -1;"))
    assert run(library, list(range(LANES))) == [lane ^ distance for lane in range(LANES)]


def test_lanes_that_part_meet_again_for_a_shuffle(library: PtxLibrary):
    """Each lane loops as often as its own number says, and then all of them shuffle."""
    library.load(
        kernel(
            "mov.u32 %r4, 0;\n$L_loop:\nsetp.ge.u32 %p1, %r4, %r1;\n@%p1 bra $L_done;",
            "add.s32 %r4, %r4, 1;\nbra.uni $L_loop;\n$L_done:\nshfl.sync.bfly.b32 %r0|%p2, %r4, 1, 31, -1;",
        )
    )
    counts = [(7 * lane) % 13 for lane in range(LANES)]
    assert run(library, counts) == [counts[lane ^ 1] for lane in range(LANES)]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("part", range(4))
def test_matrices_come_to_the_lanes_that_the_manual_names(library: PtxLibrary, transposed: bool, part: int):
    """32 rows of 8 elements, all different; lane 8 i + r gives row r of matrix i, each in a place of its own."""
    trans = ".trans" if transposed else ""
    library.load(
        kernel(
            "mul.lo.s32 %r5, %r9, 16; mov.u32 %r6, bytes; add.s32 %r6, %r6, %r5; mov.u32 %r7, 0;",
            *(
                f"mad.lo.s32 %r8, %r9, 8, {i}; cvt.u16.u32 %rs1, %r8; st.shared.u16 [%r6+{2 * i}], %rs1;"
                for i in range(8)
            ),
            "bar.sync 0;",
            f"ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r20, %r21, %r22, %r23}}, [%r6];",
            f"mov.u32 %r0, %r2{part};",
            shared=".extern .shared .align 128 .b8 bytes[];",
        )
    )
    matrix = torch.arange(256).view(4, 8, 8)[part]
    matrix = matrix.t() if transposed else matrix
    expected = [
        int(matrix[lane // 4, 2 * (lane % 4)]) | int(matrix[lane // 4, 2 * (lane % 4) + 1]) << 16
        for lane in range(LANES)
    ]
    assert run(library) == expected


PRODUCTS = {
    "m16n8k16.row.col.f32.bf16.bf16.f32": torch.bfloat16,
    "m16n8k16.row.col.f32.f16.f16.f32": torch.float16,
    "m16n8k32.row.col.s32.s8.s8.s32": torch.int8,
    "m16n8k32.row.col.f32.e4m3.e4m3.f32": torch.float8_e4m3fn,
}


def fragment_of_a(i: int, lane: int, wide: bool) -> tuple[int, int]:
    """Row and column of element i, as the manual's tables say; `wide` elements have 16 bits."""
    group, thread = lane >> 2, lane % 4
    if wide:
        row = group if 0 <= i < 2 or 4 <= i < 6 else group + 8
        return row, thread * 2 + (i & 1) + (8 if i >= 4 else 0)
    row = group if 0 <= i < 4 or 8 <= i < 12 else group + 8
    return row, thread * 4 + (i & 3) + (16 if i >= 8 else 0)


def fragment_of_b(i: int, lane: int, wide: bool) -> tuple[int, int]:
    group, thread = lane >> 2, lane % 4
    if wide:
        return thread * 2 + (i & 1) + (8 if i >= 2 else 0), group
    return thread * 4 + (i & 3) + (16 if i >= 4 else 0), group


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_is_that_of_the_matrices_of_the_manual(library: PtxLibrary, name: str):
    """Small integers, so that every sum is exact: a misplaced element shows."""
    dtype, wide = PRODUCTS[name], "k16" in name
    depth, generator = 16 if wide else 32, torch.Generator().manual_seed(3)
    a, b = (torch.randint(-8, 9, shape, generator=generator) for shape in ((16, depth), (depth, 8)))
    c = torch.randint(-1000, 1000, (16, 8), generator=generator)
    is_float = dtype != torch.int8
    packed = 2 if wide else 4

    def words(matrix: Tensor, place: Callable[[int, int, bool], tuple[int, int]], count: int) -> Tensor:
        """[registers, lanes]"""
        elements = [[matrix[place(i, lane, wide)] for i in range(count)] for lane in range(LANES)]
        return torch.tensor(elements).to(dtype).contiguous().view(torch.int32).t().contiguous()

    operands = torch.cat([words(a, fragment_of_a, 4 * packed), words(b, fragment_of_b, 2 * packed)])
    sums = torch.tensor(
        [[c[(lane >> 2) + i // 2 * 8, lane % 4 * 2 + i % 2] for lane in range(LANES)] for i in range(4)]
    )
    sums = sums.float().view(torch.int32) if is_float else sums.int()
    registers = [f"%r{20 + i}" for i in range(10)]
    results = [f"%r{40 + i}" for i in range(4)]
    load = [f"ld.global.u32 {each}, [%rd1+{128 * i}];" for i, each in enumerate([*registers, *results])]
    product = (
        f"mma.sync.aligned.{name} {{{','.join(results)}}}, {{{','.join(registers[:4])}}}, "
        f"{{{','.join(registers[4:6])}}}, {{{','.join(results)}}};"
    )
    load = [f"ld.global.u32 {each}, [%rd1+{128 * i}];" for i, each in enumerate([*registers[:6], *results])]
    memory = torch.cat([operands, sums.to(torch.int32)]).contiguous()
    expected = a @ b + c
    for i in range(4):
        library.load(kernel(*load, product, f"mov.u32 %r0, {results[i]};"))
        out, nothing = torch.zeros(LANES, dtype=torch.int32), torch.zeros(LANES, dtype=torch.int32)
        library.run("test", 1, LANES, 0, out, memory, nothing, nothing)
        found = out.view(torch.float32) if is_float else out
        places = [((lane >> 2) + i // 2 * 8, lane % 4 * 2 + i % 2) for lane in range(LANES)]
        assert found.tolist() == [float(expected[place]) for place in places]


@pytest.mark.parametrize(
    ("instruction", "said"),
    [
        ("frobnicate.b32 %r0, %r1;", "unknown instruction frobnicate.b32; add it"),
        ("add.s32 %r0, %r1;", "add.s32 has 2 operands, known with 3"),
        ("add.s32 %r0, %r1, %rd1;", "%rd1 has another width than its instruction"),
        ("add.s32 %r0, %r1, %x1;", r"what is %x1\?"),
        ("bra $L_nowhere;", r"no label \$L_nowhere"),
    ],
)
def test_what_is_not_understood_is_refused(library: PtxLibrary, instruction: str, said: str):
    with pytest.raises(KernelError, match=rf"PTX, line \d+: {said}"):
        library.load(kernel(instruction))


def test_a_kernel_without_ptx_is_an_error_and_not_its_source(library: PtxLibrary):
    with pytest.raises(KernelError, match="there is no PTX of the kernel nothing"):
        library.run("nothing", 1, LANES, 0)
