"""The corpora of the fuzzers, once through: what was found stays found."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from firmware_library import FIRMWARE, make, require
from framing_target import check
from hypothesis import given, settings
from hypothesis import strategies as st
from run import LONGEST_INPUT, read_corpus

FUZZ = Path(__file__).parents[1] / "fuzz"


@pytest.mark.parametrize("target", ["frames", "messages"])
def test_corpus_of_the_core_breaks_nothing(target: str):
    require("make", "gcc")
    build = "build/bench-replay"
    built = make("-s", f"{build}/replay/{target}", f"BUILD={build}", "ROBOT=aloha")
    assert built.returncode == 0, built.stderr
    argv = [str(FIRMWARE / build / "replay" / target), str(FUZZ / "corpus" / f"{target}.hex")]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"{len(read_corpus(target))} inputs\n"


def test_corpus_of_the_python_decoder_breaks_nothing():
    for data in read_corpus("framing"):
        check(data)


@pytest.mark.parametrize("target", LONGEST_INPUT)
def test_corpora_are_there_and_small(target: str):
    inputs = read_corpus(target)
    assert len(inputs) > 20
    assert len(set(inputs)) == len(inputs)
    assert sum(map(len, inputs)) < 30_000


@settings(max_examples=300)
@given(st.binary(max_size=700))
def test_any_bytes_leave_the_python_decoder_in_order(data: bytes):
    check(data)
