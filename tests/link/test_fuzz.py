"""Each input of the fuzzers' corpora runs once without a fault."""

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


@pytest.mark.parametrize("target", ["frames", "messages", "servos"])
def test_corpus_of_the_core_shows_no_fault(target: str):
    require("make", "gcc")
    build = "build/bench-replay"
    built = make("-s", f"{build}/replay/{target}", f"BUILD={build}", "ROBOT=aloha")
    assert built.returncode == 0, built.stderr
    argv = [str(FIRMWARE / build / "replay" / target), str(FUZZ / "corpus" / f"{target}.hex")]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"{len(read_corpus(target))} inputs\n"


def test_corpus_of_the_python_decoder_shows_no_fault():
    for data in read_corpus("framing"):
        check(data)


@pytest.mark.parametrize("target", LONGEST_INPUT)
def test_corpora_exist_and_are_small(target: str):
    inputs = read_corpus(target)
    assert len(inputs) > 20
    assert len(set(inputs)) == len(inputs)
    assert sum(map(len, inputs)) < 30_000


@settings(max_examples=300)
@given(st.binary(max_size=700))
def test_the_python_decoder_accepts_any_bytes(data: bytes):
    check(data)
