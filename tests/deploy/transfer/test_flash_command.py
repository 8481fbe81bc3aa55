"""`pi0-edge flash` against a stand-in for the installer: what it prints, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_link import Link
from cli_runner import Ran, run
from receiving_robot import Receiver
from robot_container import ROBOT_NAME
from unsigned_releases import shards, write_release

pytestmark = [pytest.mark.real_time, pytest.mark.system]


def flash(receiver: Receiver, *words: object) -> Ran:
    return run("flash", *words, "--ssh-config", receiver.ssh_config, "--key", receiver.key)


def test_a_release_is_flashed(receiver: Receiver, tmp_path: Path) -> None:
    write_release(tmp_path / "cups", shards(100_000))
    ran = flash(receiver, ROBOT_NAME, tmp_path / "cups")
    assert ran.code == 0, ran.err
    assert "send: 1 file of 0.1 MB; the release has 0.1 MB" in ran.out
    assert "is committed" in ran.out
    again = flash(receiver, "--json", ROBOT_NAME, "--no-commit", tmp_path / "cups", "--budget-ms", 80)
    assert again.code == 0, again.err
    assert (again.result["state"], again.result["bytes_needed"]) == ("trial", 0)
    assert again.result["answer"]["budget_ms"] == 80.0


def test_verbs(receiver: Receiver) -> None:
    assert flash(receiver, "status", ROBOT_NAME, "--json").result == {"current": None}
    assert flash(receiver, "history", ROBOT_NAME, "--count", 1, "--json").result == {"entries": [{"event": "booted"}]}
    assert "booted" in flash(receiver, "history", ROBOT_NAME).out
    rolled = flash(receiver, "rollback", ROBOT_NAME, "--reason", "drops cups", "--json")
    assert (rolled.code, rolled.result["reason"]) == (0, "drops cups")


def test_a_robot_that_refuses_is_exit_code_1(receiver: Receiver, tmp_path: Path) -> None:
    write_release(tmp_path / "cups", shards(100))
    (tmp_path / "cups.release" / "metadata" / "timestamp.json").rename(tmp_path / "cups.release" / "metadata" / "x")
    refused = flash(receiver, ROBOT_NAME, tmp_path / "cups", "--json")
    assert refused.code == 1 and "error:" in refused.err and set(refused.result) == {"error"}


def test_a_robot_that_is_off_is_exit_code_1(receiver: Receiver, tmp_path: Path) -> None:
    write_release(tmp_path / "cups", shards(100))
    receiver.container.set_links(Link(cut_after=1))
    ran = flash(receiver, ROBOT_NAME, tmp_path / "cups", "--json")
    assert ran.code == 1 and "cannot be reached" in ran.result["error"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cell-7"], "HOST and BUNDLE are needed"),
        (["--json", "status", "bundles/cups"], "'status' is a command and no host here"),
        (["cell-7", "bundles/none"], "bundles/none is no whole bundle"),
        (["cell-7", "bundles/cups", "more"], "No such command 'more'"),
        (["--from", "sticks", "cell-7", "cups"], "HOST and BUNDLE do not go with it"),
        (["--from", "sticks/none"], "should hold one bundle with its statement beside it, found none"),
        (["commit"], "Missing argument"),
    ],
)
def test_what_is_wrong_here_is_exit_code_2(words: list[str], said: str) -> None:
    ran = run("flash", *words)
    assert ran.code == 2 and said in ran.err
