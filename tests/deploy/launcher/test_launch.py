"""What a unit becomes, what the journal keeps, and that all of it runs with the standard library alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from source_tree import ROOT, imports, inside, modules
from unit_record import UnitRecord

from pi0_edge.deploy.launcher.fallback import fall_back
from pi0_edge.deploy.launcher.journal import read_entries, write_entry
from pi0_edge.deploy.launcher.launch import command_line
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.settings import RobotSettings, read_settings
from pi0_edge.deploy.launcher.slots import Slot, Slots, begin_trial, read_slots, read_trial, write_slots
from pi0_edge.deploy.launcher.ssh_entry import enter
from pi0_edge.errors import DeployError

OLD, NEW = Slot("1-aaa", 1, "/opt/old"), Slot("2-bbb", 2, "/opt/new")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    for place in (layout.state, layout.runtime, layout.settings.parent):
        place.mkdir(parents=True)
    settings = RobotSettings("arm-1", "aloha", "x86", "/opt/first", budget_ms=90.0, serve=("--threads", "2"))
    layout.settings.write_bytes(settings.to_bytes())
    return layout


def test_the_policy_server_gets_what_is_on_trial_else_what_is_committed(layout: Layout) -> None:
    with pytest.raises(DeployError, match="no release is installed"):
        command_line("policy", layout)
    write_slots(layout, Slots(current=OLD))
    assert command_line("policy", layout)[:5] == [
        "/opt/old/bin/python", "-m", "pi0_edge.cli", "serve", "--bundle",
    ]  # fmt: skip
    begin_trial(layout, NEW)
    argv = command_line("policy", layout)
    assert argv[0] == "/opt/new/bin/python"
    assert argv[5] == str(layout.releases / "2-bbb" / "bundle")
    assert argv[-4:] == ["--budget-ms", "90.0", "--threads", "2"]


def test_the_installer_never_runs_in_the_environment_of_a_trial(layout: Layout) -> None:
    begin_trial(layout, NEW)
    assert command_line("installer", layout)[0] == "/opt/first/bin/python"
    write_slots(layout, Slots(current=OLD))
    assert command_line("installer", layout)[0] == "/opt/old/bin/python"


def test_a_torn_file_of_a_trial_is_no_trial(layout: Layout) -> None:
    layout.trial.write_text('{"release": "2-b')
    assert read_trial(layout) is None


def test_slots_that_cannot_be_read_are_not_taken_for_a_new_robot(layout: Layout) -> None:
    layout.slots.write_text("{}")
    with pytest.raises(DeployError, match="check the disk"):
        read_slots(layout)


def test_unknown_settings_are_refused_by_name(layout: Layout) -> None:
    layout.settings.write_text('{"name": "a", "robot": "aloha", "hardware": "x", "environment": "/e", "colour": "red"}')
    with pytest.raises(DeployError, match="colour"):
        read_settings(layout)


def test_a_line_that_a_power_cut_tore_costs_that_line_alone(layout: Layout) -> None:
    write_entry(layout, "committed", "first", release="1-aaa", sequence=1)
    with layout.journal.open("ab") as file:
        file.write(b'{"at": 1, "ev')
    write_entry(layout, "committed", "second")
    assert [entry["reason"] for entry in read_entries(layout)] == ["first", "second"]
    assert len(read_entries(layout, 1)) == 1


@pytest.mark.parametrize(
    ("result", "code", "words"),
    [
        ("watchdog", 0, "sign of life"),
        ("exit-code", 7, "later than its budget"),
        ("exit-code", 3, "exit code 3"),
        ("start-limit-hit", 1, "again and again"),
    ],
)
def test_the_journal_says_why_a_release_was_taken_back(layout: Layout, result: str, code: int, words: str) -> None:
    write_slots(layout, Slots(current=NEW, previous=OLD, sequence_floor=2))
    assert fall_back(layout, UnitRecord(result, code)) == OLD
    entry = read_entries(layout)[-1]
    assert entry["event"] == "taken back"
    assert entry["release"] == NEW.release
    assert words in entry["reason"]


@pytest.mark.parametrize("record", [UnitRecord(active="activating"), UnitRecord(waits=True)])
def test_a_server_that_was_started_again_meanwhile_costs_no_release(layout: Layout, record: UnitRecord) -> None:
    """The installer was quicker than systemd to take a trial back: what is committed did not fail."""
    slots = Slots(current=NEW, previous=OLD, sequence_floor=2)
    write_slots(layout, slots)
    assert fall_back(layout, record) == NEW
    assert read_slots(layout) == slots
    assert record.started == []


@pytest.mark.parametrize("asked", [None, "", "sh", "pi0-edge; sh", "rsync --daemon", "scp -t /", "pi0-edge status"])
def test_the_account_does_nothing_else(layout: Layout, asked: str | None) -> None:
    with pytest.raises(DeployError, match="nothing else"):
        enter(layout, asked)


def test_it_needs_the_standard_library_alone() -> None:
    """It runs where no SDK does."""
    allowed = {*sys.stdlib_module_names, "pi0_edge"}
    own = ("pi0_edge.deploy.launcher", "pi0_edge.errors", "pi0_edge.synced_files")
    for module, path in modules().items():
        if inside(module, "pi0_edge.deploy.launcher"):
            names = imports(path)
            assert {name.split(".")[0] for name in names} <= allowed, module
            assert all(any(inside(name, o) for o in own) for name in names if inside(name, "pi0_edge")), module


def test_it_runs_without_site_packages(tmp_path: Path) -> None:
    main = tmp_path / "main.py"
    main.write_text("import sys\nfrom pi0_edge.deploy.launcher.command import main\nsys.exit(main())\n")
    (tmp_path / "pi0_edge").symlink_to(ROOT / "pi0_edge")
    argv = [sys.executable, "-S", str(main), "launch", "nothing"]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "unknown command" in ran.stderr
    assert json.dumps("nothing")[1:-1] in ran.stderr
