"""The keyboard of a run: one key for each wish, and a line of text for a prompt or a label.

| key   | does                                                            |
|-------|-----------------------------------------------------------------|
| space | pause, resume                                                   |
| p     | another prompt: type it, Enter takes it, an empty one is dropped |
| l     | a label for this moment, likewise                               |
| t     | take over: ← → choose a joint, ↑ ↓ move it, or move the leader; |
|       | t hands back                                                    |
| e Esc | emergency stop; Esc also while text is typed                    |
| q     | disarm and end                                                  |
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING

from firmware_bridge.errors import BridgeError
from pi0_edge.run.interventions import KeyboardJog, SetpointSource
from pi0_edge.run.life_cycle import Phase

if TYPE_CHECKING:
    from pi0_edge.run.robot_run import RobotRun

ESCAPE, ENTER, BACKSPACE = "escape", "enter", "backspace"
HELP = "space pause/resume   p prompt   l label   t take over/hand back   e Esc emergency stop   q end"
LEADER_HELP = "t hand back   space pause   e Esc emergency stop   q end"
JOG_HELP = "← → joint   ↑ ↓ move   t hand back   space pause   e Esc emergency stop   q end"

_SEQUENCES = {"A": "up", "B": "down", "C": "right", "D": "left"}
_NAMES = {"\r": ENTER, "\n": ENTER, "\x7f": BACKSPACE, "\b": BACKSPACE}
_SEQUENCE_S = 0.03
"""An arrow key sends its characters at once; Esc alone is followed by nothing."""

_POLL_S = 0.1


class KeyReader:
    """Splits what a terminal sends into keys."""

    def __init__(self) -> None:
        self._pending = ""

    @property
    def waiting(self) -> bool:
        """Whether the end of a sequence may still come."""
        return bool(self._pending)

    def feed(self, text: str) -> list[str]:
        """The keys that are complete: characters, and names such as `escape` or `up`."""
        keys, self._pending, left = [], "", self._pending + text
        while left:
            if left[0] != "\x1b":
                keys.append(_NAMES.get(left[0], left[0]))
                left = left[1:]
            elif len(left) >= 3 and left[1] in "[O":
                keys.append(_SEQUENCES.get(left[2], ""))
                left = left[3:]
            elif len(left) == 1 or (len(left) == 2 and left[1] in "[O"):
                self._pending, left = left, ""
            else:
                keys.append(ESCAPE)
                left = left[1:]
        return [key for key in keys if key]

    def flush(self) -> list[str]:
        """What was pending was Esc alone."""
        pending, self._pending = self._pending, ""
        return [ESCAPE] if pending else []


class RunKeys:
    """What each key does to a run.

    Attributes:
        editing: What is being typed: `prompt` or `label`; empty where nothing is.
        text: As far as it was typed.
        jog: Moves single joints while the person has the arm.
        leader: Moves the arm in place of the arrow keys; None where there is no leader arm.
        said: The last answer to a key, in words.
    """

    def __init__(self, run: RobotRun, jog: KeyboardJog, leader: SetpointSource | None = None) -> None:
        self.editing = ""
        self.text = ""
        self.jog = jog
        self.leader = leader
        self.said = ""
        self._run = run

    @property
    def help_while_leading(self) -> str:
        """The keys while a person has the arm."""
        return JOG_HELP if self.leader is None else LEADER_HELP

    def press(self, key: str) -> None:
        """Handles one key."""
        if key == ESCAPE:
            self._estop()
        elif self.editing:
            self._type(key)
        elif key in ("p", "l"):
            self.editing, self.text = {"p": "prompt", "l": "label"}[key], ""
        elif key == "e":
            self._estop()
        elif key == "q":
            self._run.stop("q was pressed")
        elif key == " ":
            self._pause_or_resume()
        elif key == "t":
            self._take_over_or_hand_back()
        elif key in ("left", "right"):
            self.jog.select(-1 if key == "left" else 1)
        elif key in ("up", "down"):
            self.jog.jog(1 if key == "up" else -1)

    def _type(self, key: str) -> None:
        if key == ENTER:
            what, text, self.editing = self.editing, self.text.strip(), ""
            if text and what == "prompt":
                self._run.change_prompt(text)
            elif text:
                self._run.label(text)
        elif key == BACKSPACE:
            self.text = self.text[:-1]
        elif len(key) == 1 and key.isprintable():
            self.text += key

    def _pause_or_resume(self) -> None:
        if self._run.life.phase is Phase.PAUSED:
            self._run.resume("space was pressed")
        else:
            self._run.pause("space was pressed")

    def _take_over_or_hand_back(self) -> None:
        if self._run.life.phase is Phase.TAKEN_OVER:
            self._run.hand_back()
        else:
            self._run.take_over(self.jog if self.leader is None else self.leader)

    def _estop(self) -> None:
        self.editing = ""
        try:
            self._run.estop("a key was pressed")
        except BridgeError as error:
            self.said = str(error)


@contextlib.contextmanager
def listening(keys: RunKeys) -> Iterator[None]:
    """Reads the keyboard of this terminal while the context lasts; nothing where standard input is none."""
    if not sys.stdin.isatty():
        yield
        return
    descriptor, ended = sys.stdin.fileno(), threading.Event()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)  # Ctrl-C still is a signal
    thread = threading.Thread(target=_read, args=(descriptor, keys, ended), name="run-keyboard", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _read(descriptor: int, keys: RunKeys, ended: threading.Event) -> None:
    reader = KeyReader()
    while not ended.is_set():
        ready, _, _ = select.select([descriptor], [], [], _SEQUENCE_S if reader.waiting else _POLL_S)
        typed = os.read(descriptor, 256).decode(errors="ignore") if ready else ""
        if ready and not typed:
            return
        for key in reader.feed(typed) if ready else reader.flush():
            keys.press(key)
