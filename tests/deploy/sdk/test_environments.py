"""An SDK environment on a robot is there whole or not at all, and only what its list names gets into it."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sdk_folders import THIS_PROCESSOR, THIS_PYTHON, own_wheel, pip_wheel, small_sdk, write_lock, write_wheel
from source_tree import ROOT

from pi0_edge.deploy.installer.environments import (
    COMPLETE,
    environment_id,
    environment_path,
    find_environment,
    install_environment,
    installed_version,
    is_complete,
    remove_environments,
)
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.settings import RobotSettings
from pi0_edge.deploy.sdk.lock import REQUIREMENTS, find_wheels, read_lock
from pi0_edge.errors import DeployError
from pi0_edge.progress import Progress

pytestmark = pytest.mark.system

INSTALL = """
import sys
from pathlib import Path
from pi0_edge.deploy.installer.environments import install_environment
from pi0_edge.deploy.launcher.layout import Layout
print(install_environment(Layout(Path(sys.argv[1])), Path(sys.argv[2])), flush=True)
"""


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that tests do not change."""
    return small_sdk(tmp_path_factory.mktemp("sdk"))


@pytest.fixture(scope="module")
def installed(sdk: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A robot with the environment of `sdk`, that tests do not change."""
    layout = Layout(tmp_path_factory.mktemp("robot"))
    install_environment(layout, sdk)
    return layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "robot")


def copied(sdk: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sdk, tmp_path / "sdk"))


def said_by(environment: Path, *argv: str) -> str:
    return subprocess.run([environment / "bin" / argv[0], *argv[1:]], capture_output=True, text=True, check=True).stdout


def assert_nothing_left(layout: Layout) -> None:
    assert not layout.environments.exists() or list(layout.environments.iterdir()) == []


def stand_in(layout: Layout, name: str, version: str, completed_at: float = 1.0) -> Path:
    """An environment as `find_environment` sees it."""
    environment = layout.environments / name
    (environment / "bin").mkdir(parents=True)
    (environment / "bin/python").symlink_to(sys.executable)
    (environment / COMPLETE).write_text(json.dumps({"version": version, "completed_at": completed_at}))
    return environment


def test_an_environment_is_made_without_a_network_and_runs(sdk: Path, installed: Layout) -> None:
    environment = environment_path(installed, sdk / REQUIREMENTS)
    assert environment.name == environment_id(sdk / REQUIREMENTS)
    assert is_complete(environment)
    assert said_by(environment, "pi0-edge") == "0.1.0\n"
    assert said_by(environment, "python", "-c", "import part_1; print(part_1.number)") == "1\n"
    assert installed_version(environment) == "0.1.0"


def test_once_more_changes_nothing(sdk: Path, installed: Layout) -> None:
    environment = environment_path(installed, sdk / REQUIREMENTS)
    before = {path: path.stat().st_mtime_ns for path in environment.rglob("*")}
    reasons: list[str] = []
    assert install_environment(installed, sdk, reasons.append) == environment
    assert {path: path.stat().st_mtime_ns for path in environment.rglob("*")} == before
    assert len(reasons) == 1 and "already" in reasons[0]


def test_reasons_and_progress_are_told(sdk: Path, layout: Layout) -> None:
    reasons: list[str] = []
    steps: list[Progress] = []
    install_environment(layout, sdk, reasons.append, steps.append)
    assert [reason for reason in reasons if "MB needed" in reason and "MB free" in reason]
    checked = [step for step in steps if step.stage == "checking wheels"]
    assert checked[-1].done == checked[-1].total == sum(path.stat().st_size for path in sdk.glob("*.whl"))
    assert steps[-1].done == steps[-1].total == 4


@given(data=st.data())
def test_any_altered_byte_of_any_wheel_is_refused(sdk: Path, tmp_path_factory: pytest.TempPathFactory, data) -> None:
    wheel = data.draw(st.sampled_from(sorted(path.name for path in sdk.glob("*.whl"))))
    content = bytearray((sdk / wheel).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    altered = tmp_path_factory.mktemp("altered")
    for path in sdk.iterdir():
        (altered / path.name).write_bytes(content) if path.name == wheel else (altered / path.name).symlink_to(path)
    with pytest.raises(DeployError, match="altered or damaged; send the SDK again"):
        find_wheels(read_lock(altered / REQUIREMENTS), altered)
    shutil.rmtree(altered)


def test_an_altered_wheel_is_refused_before_anything_runs(sdk: Path, layout: Layout, tmp_path: Path) -> None:
    """Above all pip itself, which would run as root."""
    altered = copied(sdk, tmp_path)
    pip = next(altered.glob("pip-*.whl"))
    pip.write_bytes(pip.read_bytes()[:-1] + b"x")
    with pytest.raises(DeployError, match=rf"{pip.name} is not the wheel that the list names"):
        install_environment(layout, altered)
    assert_nothing_left(layout)


def test_a_wheel_that_changes_after_it_was_checked_is_refused_by_pip(sdk: Path, layout: Layout, tmp_path: Path) -> None:
    changing = copied(sdk, tmp_path)

    def change(reason: str) -> None:
        if reason.startswith("space"):
            write_wheel(changing, "part-1", files={"part_1.py": "import os  # something else\n"})

    with pytest.raises(DeployError, match="a wheel changed while it was installed; send the SDK again"):
        install_environment(layout, changing, change)
    assert_nothing_left(layout)


def test_a_missing_wheel_is_named(sdk: Path, layout: Layout, tmp_path: Path) -> None:
    lacking = copied(sdk, tmp_path)
    next(lacking.glob("part_0*")).unlink()
    with pytest.raises(DeployError, match=r"lacks the wheel of part-0 1\.0"):
        install_environment(layout, lacking)
    assert_nothing_left(layout)


def test_what_the_list_does_not_name_is_not_installed(sdk: Path, layout: Layout, tmp_path: Path) -> None:
    more = copied(sdk, tmp_path)
    write_wheel(more, "stranger")
    write_wheel(more, "part-0", "2.0")
    environment = install_environment(layout, more)
    found = metadata.distributions(path=[str(next(environment.glob("lib/python3*/site-packages")))])
    assert {(package.name, package.version) for package in found} == {
        ("pi0-edge", "0.1.0"),
        ("part-0", "1.0"),
        ("part-1", "1.0"),
    }


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"python": "3.99"}, rf"with Python 3\.99, which this computer does not have .*--python {THIS_PYTHON}"),
        ({"processor": "riscv64"}, rf"is for tests \(riscv64\), this computer is {THIS_PROCESSOR}"),
        ({"glibc": (2, 99)}, r"needs the C library 2\.99, that of this computer is 2\."),
    ],
)
def test_another_computer_is_refused(sdk: Path, layout: Layout, tmp_path: Path, changed: dict, said: str) -> None:
    other = copied(sdk, tmp_path)
    write_lock(other, **changed)
    with pytest.raises(DeployError, match=said):
        install_environment(layout, other)
    assert_nothing_left(layout)


def test_a_wheel_for_another_interpreter_is_refused(layout: Layout, tmp_path: Path) -> None:
    pip_wheel(tmp_path / "sdk")
    own_wheel(tmp_path / "sdk")
    write_wheel(tmp_path / "sdk", "old", tag="cp36-cp36m-manylinux2014_armv7l")
    write_lock(tmp_path / "sdk")
    with pytest.raises(DeployError, match=r"no wheel of old==1\.0 in the folder fits this computer's Python"):
        install_environment(layout, tmp_path / "sdk")
    assert_nothing_left(layout)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("def main():\n    raise SystemExit('no such thing')\n", "starting pi0-edge failed: no such thing"),
        ("def main():\n    print('7.7')\n", "names itself pi0-edge '7.7', expected 0.1.0"),
    ],
)
def test_a_program_that_does_not_start_is_removed(layout: Layout, tmp_path: Path, program: str, said: str) -> None:
    with pytest.raises(DeployError, match=said):
        install_environment(layout, small_sdk(tmp_path / "sdk", program=program))
    assert_nothing_left(layout)


def test_packages_that_do_not_fit_together_are_refused(layout: Layout, tmp_path: Path) -> None:
    pip_wheel(tmp_path / "sdk")
    conflicts = "def version_conflicts():\n    return ['numpy 1.0 is installed, pi0-edge needs numpy>=1.24']\n"
    files = {"pi0_edge/cli.py": "def main():\n    print('0.1.0')\n", "pi0_edge/installed_packages.py": conflicts}
    write_wheel(tmp_path / "sdk", "pi0-edge", "0.1.0", files=files, programs={"pi0-edge": "pi0_edge.cli:main"})
    write_lock(tmp_path / "sdk")
    with pytest.raises(DeployError, match=r"do not fit together: numpy 1\.0 is installed"):
        install_environment(layout, tmp_path / "sdk")
    assert_nothing_left(layout)


def test_torch_of_the_system_must_be_there(sdk: Path, layout: Layout, tmp_path: Path) -> None:
    """The interpreter beneath this environment has no torch, as a board without JetPack's."""
    base = getattr(sys, "_base_executable", sys.executable)
    if not subprocess.run([base, "-I", "-c", "import torch"], capture_output=True, check=False).returncode:
        pytest.skip("torch is installed in the base interpreter here")
    jetpack = copied(sdk, tmp_path)
    write_lock(jetpack, system_torch=True)
    with pytest.raises(DeployError, match="`import torch` fails there: install JetPack's torch"):
        install_environment(layout, jetpack)
    assert_nothing_left(layout)


def test_a_full_disk_is_told_before_anything_is_written(sdk: Path, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path / "small")]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system needs root and mount")
    try:
        layout = Layout(tmp_path / "small")
        with pytest.raises(DeployError, match=r"has 8 MB free, and the SDK needs \d+ MB; free some"):
            install_environment(layout, sdk)
        assert_nothing_left(layout)
    finally:
        subprocess.run(["umount", tmp_path / "small"], check=True)


def interrupted(sdk: Path, layout: Layout, seconds: float) -> bool:
    """Installs in another process and kills it, it alone, after so many seconds; whether it was still running."""
    argv = [sys.executable, "-c", INSTALL, str(layout.root), str(sdk)]
    with subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
    assert process.returncode == 0
    return False


def check_interruptions(sdk: Path, layout: Layout, count: int, seed: int) -> None:
    """After every kill the environment is whole or does not count; in the end it is made."""
    start = time.monotonic()
    assert not interrupted(sdk, Layout(layout.root / "whole"), 600)
    whole = time.monotonic() - start
    draw = random.Random(seed)
    environment = environment_path(layout, sdk / REQUIREMENTS)
    killed = 0
    for _ in range(count):
        killed += interrupted(sdk, layout, draw.uniform(0.05, whole))
        assert find_environment(layout, ">=0.1") == (environment if is_complete(environment) else None)
        if is_complete(environment):
            assert said_by(environment, "pi0-edge") == "0.1.0\n"
            shutil.rmtree(environment)
    assert killed >= count // 2
    assert install_environment(layout, sdk) == environment
    assert said_by(environment, "pi0-edge") == "0.1.0\n"


def test_an_interrupted_installation_never_counts_and_is_finished(sdk: Path, layout: Layout) -> None:
    check_interruptions(sdk, layout, count=8, seed=0)


@pytest.mark.slow
def test_many_interrupted_installations(sdk: Path, layout: Layout) -> None:
    check_interruptions(sdk, layout, count=100, seed=1)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
def test_pip_ends_with_the_installer(sdk: Path, layout: Layout, tmp_path: Path) -> None:
    """A pip that went on would write into the environment that the next installation makes."""
    pid = tmp_path / "pid"
    program = f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    slow = small_sdk(tmp_path / "slow", program=program)
    argv = [sys.executable, "-c", INSTALL, str(layout.root), str(slow)]
    with subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL) as process:
        while not pid.exists() or not pid.read_text():
            time.sleep(0.02)
        assert is_running(pid.read_text())
        process.kill()
    for _ in range(100):
        if not is_running(pid.read_text()):
            return
        time.sleep(0.05)
    pytest.fail("what the installer had started went on without it")


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_an_environment_without_its_last_file_is_made_again(sdk: Path, layout: Layout) -> None:
    environment = install_environment(layout, sdk)
    (environment / COMPLETE).unlink()
    (environment / "left-over").touch()
    reasons: list[str] = []
    assert install_environment(layout, sdk, reasons.append) == environment
    assert any("interrupted installation is removed" in reason for reason in reasons)
    assert not (environment / "left-over").exists()


def test_an_environment_whose_interpreter_is_gone_does_not_count(layout: Layout) -> None:
    """As after an update of the operating system to another Python."""
    environment = stand_in(layout, "a", "0.1.0")
    assert find_environment(layout, ">=0.1") == environment
    (environment / "bin/python").unlink()
    (environment / "bin/python").symlink_to("/usr/bin/python3.99")
    assert find_environment(layout, ">=0.1") is None


def test_the_newest_version_in_the_range_is_found(layout: Layout) -> None:
    made = {version: stand_in(layout, version, version) for version in ("0.1.2", "0.1.10", "0.2.0", "1.0.0")}
    assert find_environment(layout, ">=0.1,<0.2") == made["0.1.10"]
    assert find_environment(layout, "") == made["1.0.0"]
    assert find_environment(layout, "==0.2.*") == made["0.2.0"]
    assert find_environment(layout, ">=2") is None
    with pytest.raises(DeployError, match="expected versions such as"):
        find_environment(layout, "newest")


def test_of_the_same_version_the_later_one_is_found(layout: Layout) -> None:
    stand_in(layout, "early", "0.1.0", 1.0)
    late = stand_in(layout, "late", "0.1.0", 2.0)
    stand_in(layout, "torn", "0.1.0", 3.0).joinpath(COMPLETE).write_text("{")
    assert find_environment(layout, ">=0.1") == late


def test_the_environment_of_the_operating_system_is_found(layout: Layout, installed: Layout, sdk: Path) -> None:
    brought = environment_path(installed, sdk / REQUIREMENTS)
    layout.settings.parent.mkdir(parents=True)
    settings = RobotSettings(name="one", robot="aloha", hardware="any", environment=str(brought))
    layout.settings.write_bytes(settings.to_bytes())
    assert find_environment(layout, ">=0.1,<0.2") == brought
    assert find_environment(layout, ">=0.2") is None
    newer = stand_in(layout, "newer", "0.1.1")
    assert find_environment(layout, ">=0.1,<0.2") == newer
    layout.settings.write_bytes(dataclasses.replace(settings, environment="/nowhere").to_bytes())
    assert find_environment(layout, ">=0.1,<0.2") == newer


def test_all_but_those_to_keep_are_removed(layout: Layout) -> None:
    assert remove_environments(layout, set()) == []
    for name in ("kept", "old", "older"):
        stand_in(layout, name, "0.1.0")
    (layout.environments / "interrupted" / "bin").mkdir(parents=True)
    assert remove_environments(layout, {"kept", "absent"}) == ["interrupted", "old", "older"]
    assert [path.name for path in layout.environments.iterdir()] == ["kept"]


def test_settings_of_a_user_do_not_reach_pip(sdk: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_TARGET", "/nowhere")
    monkeypatch.setenv("PIP_NO_BINARY", ":all:")
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    monkeypatch.setenv("VIRTUAL_ENV", "/nowhere")
    assert is_complete(install_environment(layout, sdk))


def test_the_standard_library_suffices(sdk: Path, layout: Layout, tmp_path: Path) -> None:
    """So the first environment of a robot is made by the Python of its system, from the wheel."""
    base = getattr(sys, "_base_executable", sys.executable)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{INSTALL}"
    argv = [base, "-I", "-S", "-c", code, str(layout.root), str(sdk)]
    made = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert is_complete(Path(made.stdout.strip()))
