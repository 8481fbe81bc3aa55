"""The frame of the command line: help, usage errors, missing packages, Ctrl-C, and what runs without torch."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest
from cli_runner import run

pytestmark = pytest.mark.system

COMMANDS = ["demo", "doctor", "evaluate", "export", "infer", "quantize", "verify", "record", "train", "serve", "bridge"]


def test_help_lists_every_command():
    ran = run("--help")
    assert ran.code == 0
    assert all(f" {command} " in ran.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command):
    ran = run(command, "--help")
    assert ran.code == 0
    assert "--json" in ran.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense", "--json"], "No such command 'nonsense'"),
        (["verify", "--json"], "Missing option"),
        (["verify", "--jsn"], "No such option"),
        (["evaluate", "--json", "--execute", "0"], "Invalid value"),
        (["evaluate", "--json", "--seeds", "5:5"], "--seeds '5:5': expected A:B"),
        (["evaluate", "--json", "--engine", "warp"], "'warp'"),
        (["evaluate", "--json", "--baseline", "replay"], "--dataset"),
        (["quantize", "--json", "--scheme", "int2"], "unknown quantization scheme 'int2'"),
        (["serve", "--json", "--listen", "0.0.0.0:1"], "--insecure-allow-remote"),
        (["serve", "--json", "--stale-prefix", "100"], "--engine cuda"),
        (["serve", "--json", "--batch", "17"], "expected 1 to 16"),
        (["serve", "--json", "--batch", "2", "--engine", "cuda"], "expected 1 with"),
        (["serve", "--json", "--batch-wait-ms", "5"], "--batch-wait-ms is of --batch"),
        (["bridge", "--json", "--port", "/dev/ttyNONE", "--listen", "127.0.0.1:0"], "/dev/ttyNONE does not exist"),
        (["bridge", "--json", "--port", "/dev/null", "--listen", "0.0.0.0:1"], "loopback"),
        (["train", "--json", "--dataset", "nowhere", "--output", "x"], "nowhere"),
        (["record", "--json", "--output", "x", "--first-seed", "5"], "evaluation"),
    ],
)
def test_bad_usage_and_bad_input_exit_with_2_and_one_message(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = run(*arguments)
    assert ran.code == 2
    assert message in ran.err
    assert "Traceback" not in ran.err
    if "--json" in arguments:
        assert message in ran.result["error"]


def test_nothing_to_do_shows_the_help():
    ran = run()
    assert ran.code == 2
    assert "evaluate" in ran.out + ran.err


def test_ctrl_c_exits_with_130(monkeypatch):
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pi0_edge.doctor.examine", interrupted)
    ran = run("doctor", "--json")
    assert (ran.code, ran.result) == (130, {"error": "interrupted"})


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it():
    code = (
        "import sys; sys.modules['mujoco'] = None\n"
        "from pi0_edge.cli import main\n"
        "sys.exit(main(['evaluate', '--json', '--baseline', 'replay', '--dataset', 'x']))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "pi0-edge[sim]" in ran.stdout
    assert "Traceback" not in ran.stderr


def test_a_mistake_of_our_own_is_not_taken_for_a_missing_package(monkeypatch):
    def broken(**_: object) -> None:
        raise ModuleNotFoundError("No module named 'pi0_edge.nothing'", name="pi0_edge.nothing")

    monkeypatch.setattr("pi0_edge.doctor.examine", broken)
    with pytest.raises(ModuleNotFoundError):
        run("doctor")


def test_help_loads_neither_torch_nor_the_simulation():
    code = (
        "import sys; from pi0_edge.cli import main; main(['--help'])\n"
        "print([name for name in ('torch', 'mujoco', 'grpc') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_the_version_is_that_of_the_distribution():
    ran = run("--version")
    assert (ran.code, ran.out) == (0, f"{version('pi0-edge')}\n")
