"""Reading machine code and modelling its speed: loops are found, and what would be slower on a GPU is slower here."""

import pytest
from orin_model import TENSOR_CYCLES, cycles_per_step, parsed, tensor_cycles
from sass_loops import functions, kinds, product_loops

LISTING = """
//--------------------- .text.first --------------------------
\t.section\t.text.first,"ax",@progbits
\t.sectioninfo\t@"SHI_REGISTERS=40"
.text.first:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   IADD3 R2, R2, 0x1, RZ ;
        /*0020*/              @!P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0030*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0040*/                   LDSM.16.M88.4 R4, [R3] ;
.L_x_2:
        /*0050*/                   FADD R20, R20, R21 ;
        /*0060*/               @P1 BRA `(.L_x_2) ;
        /*0070*/                   LDGSTS.E.BYPASS.128 [R3+0x100], [R8.64] ;
        /*0080*/                   IMMA.16832.S8.S8 R12, R4.ROW, R6.COL, R12 ;
        /*0090*/                   IADD3 R3, R3, 0x40, RZ ;
        /*00a0*/              @!P0 BRA `(.L_x_1) ;
.L_x_3:
        /*00b0*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*00c0*/                   IMMA.16832.S8.S8 R12, R4.ROW, R6.COL, R12 ;
        /*00d0*/                   IMMA.16832.S8.S8 R16, R4.ROW, R8.COL, R16 ;
        /*00e0*/              @!P0 BRA `(.L_x_3) ;
        /*00f0*/               @P1 BRA `(.L_x_0) ;
        /*0100*/                   EXIT ;
\t.section\t.text.second,"ax",@progbits
.L_x_9:
        /*0000*/                   FADD R2, R2, R2 ;
        /*0010*/              @!P0 BRA `(.L_x_9) ;
"""


def test_the_innermost_loops_with_products_are_found_without_the_loops_inside_that_have_none():
    """The loop around both, which has the most products, is none of them; the one with more of the two comes first."""
    first, second = functions(LISTING)
    assert [first[0], second[0]] == ["first", "second"]
    hot, loop = product_loops(first[1])
    assert kinds(hot) == {"control": 2, "tensor": 2}
    assert [text.split()[0] for text in loop] == [
        "BAR.SYNC.DEFER_BLOCKING",
        "LDSM.16.M88.4",
        "LDGSTS.E.BYPASS.128",
        "IMMA.16832.S8.S8",
        "IADD3",
        "@!P0",
    ]
    assert kinds(loop) == {"control": 2, "shared memory": 1, "copies": 1, "tensor": 1, "integer": 1}
    assert product_loops(second[1]) == []


@pytest.mark.parametrize(
    ("text", "reads", "writes"),
    [
        ("IADD3 R2, P0, R4, R5, RZ", {"R4", "R5"}, {"R2", "P0"}),
        ("@!P3 IMAD.WIDE R6, R4, 0x2, R8", {"P3", "R4", "R8", "R9"}, {"R6", "R7"}),
        ("LDSM.16.M88.4 R4, [R3+UR5]", {"R3", "UR5"}, {"R4", "R5", "R6", "R7"}),
        ("LDS.128 R8, [R1]", {"R1"}, {"R8", "R9", "R10", "R11"}),
        ("LDGSTS.E.BYPASS.128 [R3], [R8.64]", {"R3", "R8", "R9"}, set()),
        ("ISETP.GE.AND P0, PT, R2, R3, PT", {"R2", "R3"}, {"P0"}),
        (
            "HMMA.16816.F32.BF16 R12, R4, R8, R12",
            {f"R{i}" for i in (4, 5, 6, 7, 8, 9, 12, 13, 14, 15)},
            {"R12", "R13", "R14", "R15"},
        ),
    ],
)
def test_registers_of_an_instruction(text: str, reads: set[str], writes: set[str]):
    assert (parsed(text).reads, parsed(text).writes) == (reads, writes)


def products(count: int) -> list[str]:
    """Products that do not depend on each other, within two rounds of the loop."""
    return [f"IMMA.16832.S8.S8 R{20 + 4 * i}, R4.ROW, R8.COL, R{20 + 4 * i}" for i in range(count)]


def test_products_alone_reach_the_peak_and_no_loop_passes_it():
    for warps, blocks in ((4, 1), (4, 2), (8, 1)):
        loop = products(32)
        assert cycles_per_step(loop, warps, blocks) == tensor_cycles(loop, warps, blocks)
        assert tensor_cycles(loop, warps, blocks) == 32 * TENSOR_CYCLES * warps * blocks / 4


def test_a_chain_of_addresses_behind_a_barrier_costs_its_length():
    """An unpublished audit found in the INT8 product: tensor cores wait for instructions that depend on each other."""
    barrier, chain = ["BAR.SYNC 0x0"], ["IADD3 R2, R2, R3, RZ"] * 50
    short = cycles_per_step([*barrier, *products(16)], 4, 1)
    long = cycles_per_step([*barrier, *chain, "LDSM.16.M88.4 R4, [R2]", *products(16)], 4, 1)
    assert long > short + 50 * 4


def test_a_second_block_hides_part_of_it():
    loop = ["BAR.SYNC 0x0", *["IADD3 R2, R2, R3, RZ"] * 50, "LDSM.16.M88.4 R4, [R2]", *products(16)]
    assert cycles_per_step(loop, 4, 2) < 1.6 * cycles_per_step(loop, 4, 1)


def test_shared_memory_serves_four_words_of_a_warp_in_four_cycles():
    loop = [f"LDSM.16.M88.4 R{4 * i}, [R250]" for i in range(30)]
    assert cycles_per_step(loop, 4, 1) == pytest.approx(30 * 4 * 4, rel=0.02)
