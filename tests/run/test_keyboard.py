"""Keys: what a terminal sends, and what each key asks of a run."""

from __future__ import annotations

import pytest

from firmware_bridge.errors import LinkError
from firmware_bridge.robot import load_joints
from pi0_edge.run.interventions import KeyboardJog
from pi0_edge.run.keyboard import ESCAPE, KeyReader, RunKeys
from pi0_edge.run.life_cycle import LifeCycle, Step

ALOHA = load_joints("aloha")


class Asked:
    """Writes down what it is asked for, as a run would do it."""

    def __init__(self) -> None:
        self.life = LifeCycle()
        self.calls: list[tuple[str, ...]] = []
        self.bridge_lost = False

    def __getattr__(self, name: str):
        return lambda *arguments: self.calls.append((name, *map(str, arguments)))

    def estop(self, reason: str) -> None:
        if self.bridge_lost:
            raise LinkError("no bridge answers")
        self.calls.append(("estop", reason))


@pytest.fixture
def asked() -> Asked:
    asked = Asked()
    asked.life.take(Step.START)
    return asked


@pytest.fixture
def keys(asked: Asked) -> RunKeys:
    return RunKeys(asked, KeyboardJog(ALOHA))  # pyright: ignore[reportArgumentType]


def type_in(keys: RunKeys, text: str) -> None:
    reader = KeyReader()
    for key in [*reader.feed(text), *reader.flush()]:
        keys.press(key)


def test_arrow_keys_are_told_from_escape_even_in_pieces():
    reader = KeyReader()
    assert reader.feed("a\x1b[A\x1bOB") == ["a", "up", "down"]
    assert reader.feed("\x1b[") == [] and reader.waiting
    assert reader.feed("C") == ["right"]
    assert reader.feed("\x1b") == [] and reader.flush() == [ESCAPE]
    assert reader.feed("\x1bq") == [ESCAPE, "q"]
    assert reader.flush() == []


def test_space_pauses_and_resumes(keys: RunKeys, asked: Asked):
    type_in(keys, " ")
    asked.life.take(Step.PAUSE)
    type_in(keys, " ")
    assert [call[0] for call in asked.calls] == ["pause", "resume"]


@pytest.mark.parametrize("key", ["e", "\x1b"])
def test_e_and_escape_stop_at_once(keys: RunKeys, asked: Asked, key: str):
    type_in(keys, key)
    assert asked.calls == [("estop", "a key was pressed")]


def test_escape_stops_also_while_text_is_typed_and_e_is_a_letter_there(keys: RunKeys, asked: Asked):
    type_in(keys, "pstop here")
    assert (keys.editing, keys.text, asked.calls) == ("prompt", "stop here", [])
    type_in(keys, "\x1b")
    assert asked.calls == [("estop", "a key was pressed")] and keys.editing == ""


def test_a_stop_that_did_not_reach_the_bridge_says_so(keys: RunKeys, asked: Asked):
    asked.bridge_lost = True
    type_in(keys, "e")
    assert keys.said == "no bridge answers"


def test_a_prompt_and_a_label_are_typed_and_an_empty_one_is_dropped(keys: RunKeys, asked: Asked):
    type_in(keys, "pquick\x7f\x7fet\rlgood\rp  \rl\r")
    assert asked.calls == [("change_prompt", "quiet"), ("label", "good")]


def test_a_person_takes_over_moves_joints_within_limits_and_hands_back(keys: RunKeys, asked: Asked):
    type_in(keys, "t")
    assert asked.calls[0][0] == "take_over"
    asked.life.take(Step.TAKE_OVER)
    keys.jog.begin(ALOHA.home)
    type_in(keys, "\x1b[C" + "\x1b[B" * 200)
    target = keys.jog.target()
    assert target is not None and target[1] == ALOHA.lower[1]
    assert (target[[0, *range(2, 14)]] == ALOHA.home[[0, *range(2, 14)]]).all()
    type_in(keys, "t")
    assert asked.calls[-1] == ("hand_back",)
