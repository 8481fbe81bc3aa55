"""`pi0-edge keys` and `pi0-edge release`: the whole story, for people and for programs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import run
from release_builders import FAILED, plain_bundle, received
from trust_cases import Robot

from pi0_edge.bundle import write_key_pair

pytestmark = pytest.mark.usefixtures("unsynced_files")

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_from_keys_to_a_release_that_a_robot_believes(tmp_path: Path) -> None:
    made = run("keys", "init", "trust", "--json")
    assert made.code == 0
    assert made.result["made"] is True
    assert made.result["keys"].keys() == {"release", "root-1", "root-2", "root-3"}
    robot = Robot(tmp_path / "tuf", (tmp_path / "trust/metadata/root.json").read_bytes())
    plain_bundle(tmp_path / "cups")
    signed = run(
        "release", "sign", "cups", "--sequence", 1, "--hardware", "orin-nx", "--hardware", "orin-agx", "--json"
    )
    assert signed.code == 0
    assert signed.result["sequence"] == 1
    assert signed.result["hardware"] == ["orin-nx", "orin-agx"]
    assert signed.result["release_keys"] == {"release": made.result["keys"]["release"]["fingerprint"]}
    assert robot.install(received(tmp_path / "cups", tmp_path / "staged")).release.id == signed.result["release"]

    rotated = run("keys", "rotate", "trust", "--replace", "release", "--json")
    assert (rotated.code, rotated.result["root_version"]) == (0, 2)
    again = run("release", "sign", "cups", "--sequence", 2, "--json")
    assert again.result["release_keys"] == {"release": rotated.result["keys"]["release"]["fingerprint"]}
    robot.install(received(tmp_path / "cups", tmp_path / "staged"))
    shown = run("release", "show", "cups", "--trust", "trust", "--json")
    assert shown.result == {**again.result, "verified_with_trust_folder": True}


def test_people_read_tables(tmp_path: Path) -> None:
    made = run("keys", "init", "trust")
    assert (made.code, made.err) == (0, "")
    assert "move its root keys to separate media" in made.out and "root-3" in made.out
    plain_bundle(tmp_path / "cups")
    assert run("release", "sign", "cups", "--sequence", 1).code == 0
    shown = run("release", "show", "cups")
    for text in ("so101", "any", "protocol 2, joint table 0x", "2 of root-1", "compare the fingerprints", "expires"):
        assert text in shown.out
    assert "compare the fingerprints" not in run("release", "show", "cups", "--trust", "trust").out


def test_init_again_is_the_same_request_or_refused() -> None:
    first = run("keys", "init", "trust", "--root-keys", 4, "--root-threshold", 3, "--json").result
    again = run("keys", "init", "trust", "--root-keys", 4, "--root-threshold", 3, "--json")
    assert (again.code, again.result) == (0, {**first, "made": False})
    assert "nothing was changed" in again.err
    other = run("keys", "init", "trust", "--json")
    assert other.code == 2
    assert "3 of 4 root keys and 12 months, and 2 of 3 root keys and 12 months was asked for" in other.result["error"]


def test_root_keys_on_sticks_and_a_key_in_a_vault(tmp_path: Path) -> None:
    run("keys", "init", "trust")
    sticks = [shutil.move(tmp_path / f"trust/keys/root-{n}.pem", tmp_path / f"stick-{n}.pem") for n in (1, 2, 3)]
    shown = run("keys", "show", "trust", "--json").result
    assert {name for name, key in shown["keys"].items() if key["here"]} == {"release"}
    write_key_pair(tmp_path / "vault.pem", tmp_path / "vault.pub.pem")
    rotate = ("keys", "rotate", "trust", "--replace", "release", "--with", "vault.pub.pem", "--json")
    refused = run(*rotate, "--root-key", sticks[0])
    assert refused.code == 2 and "1 of the root keys of root 1 would sign, and 2 must" in refused.result["error"]
    assert run(*rotate, "--root-key", sticks[0], "--root-key", sticks[2]).code == 0
    plain_bundle(tmp_path / "cups")
    refused = run("release", "sign", "cups", "--sequence", 1, "--json")
    assert refused.code == 2 and "give the path of its file" in refused.result["error"]
    assert run("release", "sign", "cups", "--sequence", 1, "--release-key", "vault.pem").code == 0


def test_a_renewal_replaces_no_key() -> None:
    before = run("keys", "init", "trust", "--json").result["keys"]
    renewed = run("keys", "rotate", "trust", "--json")
    assert (renewed.result["root_version"], renewed.result["keys"], renewed.result["replaced"]) == (2, before, None)
    assert "renewed" in renewed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["keys", "init", "trust", "--root-keys", "0"], "2 of 0 root keys is not possible"),
        (["keys", "rotate", "none", "--replace", "release"], "none is no trust folder"),
        (["keys", "show", "none"], "is no trust folder"),
        (["release", "sign", "none", "--sequence", "1"], "none is not a folder"),
        (["release", "sign", "cups"], "Missing option"),
        (["release", "sign", "cups", "--sequence", "1"], "trust is no trust folder"),
        (["release", "sign", "bad", "--sequence", "1"], "cosine mean 0.9312"),
        (["release", "sign", "cups", "--sequence", "1", "--firmware-limits-hash", "x"], "expected a whole number"),
        (["release", "show", "cups"], "cups is not signed"),
    ],
)
def test_bad_input_exits_with_2_and_one_message(arguments: list[str], message: str, tmp_path: Path) -> None:
    plain_bundle(tmp_path / "cups")
    plain_bundle(tmp_path / "bad", gate=FAILED)
    if "bad" in arguments:
        run("keys", "init", "trust")
    ran = run(*arguments, "--json")
    assert ran.code == 2
    assert message in ran.result["error"]
    assert "Traceback" not in ran.err


def test_a_missing_package_is_named_with_the_extra_that_installs_it(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['tuf'] = None; sys.modules['securesystemslib'] = None\n"
        "from pi0_edge.cli import main\n"
        "sys.exit(main(['keys', 'init', sys.argv[1], '--json']))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "trust")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "pi0-edge[deploy]" in ran.stdout
    assert "Traceback" not in ran.stderr
