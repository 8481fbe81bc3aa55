"""Prompt formats, state bins and tokenizers of both file kinds."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from processing_builders import character_tokenizer

from pi0_edge.errors import ConfigError
from pi0_edge.processing import load_tokenizer
from pi0_edge.processing.prompts import PromptStyle, clean, prompt_tokens, prompt_with_state, state_bins

NO_STATE = np.zeros(0)
GEMMA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "tokenizer_gemma"
"""17 MB, too large for the repository: the tests that need it skip where it does not lie beside the checkout."""


@pytest.fixture(scope="module")
def gemma():
    if not GEMMA.is_dir():
        pytest.skip(f"no Gemma tokenizer at {GEMMA}")
    return load_tokenizer(GEMMA)


def test_prompt_cleaning():
    assert clean("  pick_up the\nfork \n") == "pick up the fork"


def test_state_bins_at_their_edges():
    step = 2 / 256
    state = np.array([-1.0001, -1.0, -1.0 + step - 1e-9, -1.0 + step, 0.0, 1.0 - step, 1.0 - 1e-9, 1.0, 7.0])
    assert state_bins(state).tolist() == [-1, 0, 0, 1, 128, 255, 255, 255, 255]


@given(st.lists(st.floats(-1, 0.99999), min_size=1, max_size=32))
def test_bins_are_256_equal_steps(state):
    bins = state_bins(np.array(state))
    edges = -1 + np.arange(257) / 128
    assert all(edges[b] <= x < edges[b + 1] for b, x in zip(bins, state, strict=True))


def test_pi05_prompt_text():
    text = prompt_with_state(" Transfer_cube\n", np.array([-1.5, -1.0, 0.0, 0.5, 1.0]))
    assert text == "Task: Transfer cube, State: -1 0 128 192 255;\nAction: "


def test_bos_stands_first_and_the_newline_is_a_piece_of_its_own(tmp_path):
    tokenizer = character_tokenizer(tmp_path)
    assert prompt_tokens(tokenizer, "a_b", NO_STATE, PromptStyle.TEXT) == [2, 297, 232, 298, 108]
    with_state = prompt_tokens(tokenizer, "a", np.zeros(1), PromptStyle.TEXT_AND_STATE)
    assert with_state == tokenizer.encode("Task: a, State: 128;\nAction: ")
    assert with_state[0] == 2 and with_state.count(108) == 1


def test_gemma_ids(gemma):
    assert prompt_tokens(gemma, "transfer cube", NO_STATE, PromptStyle.TEXT) == [2, 23262, 28660, 108]
    assert prompt_tokens(gemma, " transfer_cube\n", NO_STATE, PromptStyle.TEXT) == [2, 23262, 28660, 108]


def test_gemma_pi05_digits_are_pieces_of_their_own(gemma):
    ids = prompt_tokens(gemma, "transfer cube", np.array([0.5]), PromptStyle.TEXT_AND_STATE)
    assert ids[:5] == [2, 7071, 235292, 5853, 28660]
    assert ids[-4:] == [108, 4022, 235292, 235248]  # "\n", "Action", ":", " "


def test_tokenizer_json_with_padding_and_truncation_switched_on(tmp_path):
    plain = character_tokenizer(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    (tmp_path / "other.json").write_text(json.dumps(content))
    assert load_tokenizer(tmp_path / "other.json").encode("abcd") == plain.encode("abcd")


def train_sentencepiece(**options):
    model = io.BytesIO()
    sentences = ["transfer the cube", "pick up the fork", "open the drawer", "fold the towel"] * 20
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=3,
        user_defined_symbols=["\n"],
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def test_sentencepiece_model(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(train_sentencepiece(bos_id=2))
    tokenizer = load_tokenizer(tmp_path)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    tokens = prompt_tokens(tokenizer, "open_the drawer", NO_STATE, PromptStyle.TEXT)
    newline = reference.PieceToId("\n")
    assert tokens == [2, *reference.EncodeAsIds("open the drawer"), newline]
    assert newline != reference.unk_id()


def test_tokenizers_that_cannot_be_used(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no tokenizer; expected PaliGemma's there, as tokenizer.model or"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"tokenizer.json is not a tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer.json is not a tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "bad.model").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"bad.model is not a SentencePiece model"):
        load_tokenizer(tmp_path / "bad.model")
    (tmp_path / "no_bos.model").write_bytes(train_sentencepiece(bos_id=-1))
    with pytest.raises(ConfigError, match=r"no_bos.model has no BOS token"):
        load_tokenizer(tmp_path / "no_bos.model")
