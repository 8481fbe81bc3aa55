"""What people see while something takes long."""

from __future__ import annotations

import pytest

from pi0_edge.cli.output import Output
from pi0_edge.progress import Stage


def test_a_stage_has_one_bar_and_another_where_it_begins_again(capsys: pytest.CaptureFixture[str]):
    with Output(as_json=True).progress() as show:
        for _ in range(2):
            stage = Stage("sending", 3, show)
            for _ in range(5):
                stage.set(0)  # still waiting
            for done in (1, 2, 3):
                stage.set(done)
    shown = capsys.readouterr().err
    assert shown.count("sending") == 2 and shown.count("3/3") == 2
