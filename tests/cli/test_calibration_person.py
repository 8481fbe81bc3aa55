"""The person at a terminal sees a table that follows the arm; without a terminal a line of standard input is a step."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time

PROGRAM = """
from itertools import count
from pi0_edge.run.calibration.procedure import JointRange, Step, StepKind
from pi0_edge.cli.calibration_person import EnteringPerson
from pi0_edge.cli.output import Output

person, numbers = EnteringPerson(Output(as_json=False)), count(2000)
person.do(Step(StepKind.ZERO_POSE, "Put it into its zero pose.", ("elbow",)))
person.do(Step(StepKind.RANGE, "Move it.", ("elbow",)), lambda: [JointRange("elbow", 812, next(numbers), 3301)])
print("again:", person.try_again("elbow was not moved"))
"""


def read_until(terminal: int, wanted: str, limit_s: float = 20.0) -> str:
    said, deadline = "", time.monotonic() + limit_s
    while wanted not in said:
        assert time.monotonic() < deadline, said
        if select.select([terminal], [], [], 0.1)[0]:
            said += os.read(terminal, 4096).decode()
    return said


def test_at_a_terminal_the_table_follows_the_arm_until_enter() -> None:
    terminal, other = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    argv = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(argv, stdin=other, stdout=other, stderr=other, env=environment) as program:
        os.close(other)
        assert "zero pose" in read_until(terminal, "Then press Enter.")
        os.write(terminal, b"\n")
        table = read_until(terminal, "2002")
        assert all(word in table for word in ("lowest", "highest", "elbow", "812", "2000", "2001", "3301"))
        os.write(terminal, b"\n")
        assert "Not yet: elbow was not moved. Once more" in read_until(terminal, "again: True")
    os.close(terminal)
    assert program.returncode == 0


def test_without_a_terminal_every_step_takes_a_line_and_none_is_repeated() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], input="\n\n", capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "again: False"
    ended = subprocess.run([sys.executable, "-c", PROGRAM], input="\n", capture_output=True, text=True, check=False)
    assert "standard input ended before the calibration; nothing was written" in ended.stderr
