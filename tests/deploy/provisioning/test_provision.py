"""A computer as it comes from the shop becomes a robot; again, and nothing changes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from robot_container import ROBOT_NAME, RobotContainer, bound_environment

from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.settings import read_settings
from pi0_edge.deploy.provisioning.payload import launcher_files, make_tar, units_to_enable
from pi0_edge.deploy.provisioning.provision import Provisioned, ProvisionRequest, provision
from pi0_edge.deploy.transfer.robot_host import RobotHost
from pi0_edge.deploy.transfer.rsync import send_files
from pi0_edge.deploy.transfer.ssh import Connection
from pi0_edge.errors import DeployError, TrustError

pytestmark = [pytest.mark.real_time, pytest.mark.system]


def make_key(folder: Path, name: str = "flash_key") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", folder / name], check=True)
    return folder / name


def make_trust(folder: Path, version: int = 1) -> Path:
    (folder / "metadata").mkdir(parents=True, exist_ok=True)
    for name in ("root.json", f"{version}.root.json"):
        (folder / "metadata" / name).write_text(f'{{"version": {version}, "of": "{folder.name}"}}')
    return folder


@pytest.fixture
def computer(make_robot: Callable[..., RobotContainer]) -> Iterator[RobotContainer]:
    robot = make_robot("computer", *bound_environment())
    yield robot
    robot.drop()


def provisioned(computer: RobotContainer, key: Path, reasons: list[str] | None = None, **request: Any) -> Provisioned:
    settings = {"robot": "aloha", "environment": computer.environment(), **request.pop("settings", {})}
    return provision(
        ROBOT_NAME,
        ProvisionRequest(key.with_suffix(".pub"), settings=settings, **request),
        ssh_config=computer.ssh_config,
        on_reason=([] if reasons is None else reasons).append,
    )


def test_a_computer_becomes_a_robot_and_stays_one(computer: RobotContainer, tmp_path: Path) -> None:
    key, trust, reasons = make_key(tmp_path), make_trust(tmp_path / "trust"), []
    result = provisioned(computer, key, reasons, trust_folder=trust, settings={"budget_ms": 90.0}, watchdog_s=3.0)
    layout = Layout(computer.path("/"))
    assert read_settings(layout) == result.settings
    assert (result.settings.name, result.settings.robot, result.settings.budget_ms) == (ROBOT_NAME, "aloha", 90.0)
    assert (layout.trusted_metadata / "provisioned.root.json").read_bytes() == (
        trust / "metadata" / "root.json"
    ).read_bytes()
    assert "WatchdogSec=3\n" in computer.path("/etc/systemd/system/pi0-edge-policy.service.d/watchdog.conf").read_text()
    modes = computer.run(
        "cd /var/lib/pi0-edge; stat -c '%n %a %U:%G' . staging releases incoming tuf /opt/pi0-edge/sdk /etc/pi0-edge"
    ).stdout.splitlines()
    assert modes == [
        ". 755 root:root",
        "staging 1770 root:pi0-flash",
        "releases 755 root:root",
        "incoming 700 root:root",
        "tuf 755 root:root",
        "/opt/pi0-edge/sdk 755 root:root",
        "/etc/pi0-edge 755 root:root",
    ]
    assert computer.run("ls -d /run/pi0-provision* 2>/dev/null", check=False).stdout == ""
    again = provisioned(computer, key, trust_folder=trust, settings={"budget_ms": 90.0}, watchdog_s=3.0)
    assert again.changes == () and again.settings == result.settings
    assert computer.run("systemctl is-system-running", check=False).stdout == "running\n"
    assert computer.run("systemctl is-enabled pi0-edge-bridge.service", check=False).stdout == "disabled\n"


def test_a_robot_with_a_bridge_has_its_service(computer: RobotContainer, tmp_path: Path) -> None:
    settings = {"bridge": "127.0.0.1:50061", "bridge_arguments": ("--port", "/dev/pi0-edge-board")}
    key = make_key(tmp_path)
    provisioned(computer, key, settings=settings)
    assert computer.run("systemctl is-enabled pi0-edge-bridge.service").stdout == "enabled\n"
    result = provisioned(computer, key, settings={"bridge": None})
    assert "unit pi0-edge-bridge.service: disabled" in result.changes


def test_the_account_can_send_and_nothing_else(computer: RobotContainer, tmp_path: Path) -> None:
    key = make_key(tmp_path)
    provisioned(computer, key)
    config = computer.ssh_config_for("pi0-flash", key)
    (tmp_path / "file").write_text("a release")
    with Connection(ROBOT_NAME, ssh_config=config, key=key) as connection:
        send_files(connection, tmp_path, ["file"], "abc")
        assert computer.path("/var/lib/pi0-edge/staging/abc/file").read_text() == "a release"
        for command in ("id", "sh -c id", "rsync --server --sender . /etc/passwd", "scp -t /", "pi0-edge status"):
            ran = connection.run(command)
            assert ran.returncode != 0 and b"uid=" not in ran.stdout and b"root:" not in ran.stdout
    assert computer.run("su pi0-flash -c 'mv /var/lib/pi0-edge/staging/.. /tmp'", check=False).returncode != 0
    computer.run("install -d -m 755 /var/lib/pi0-edge/staging/.basis")
    assert computer.run(
        "su pi0-flash -c 'mv /var/lib/pi0-edge/staging/.basis /var/lib/pi0-edge/staging/b'", check=False
    )
    assert computer.path("/var/lib/pi0-edge/staging/.basis").exists()


def test_settings_that_are_not_given_stay(computer: RobotContainer, tmp_path: Path) -> None:
    key = make_key(tmp_path)
    first = provisioned(computer, key, settings={"budget_ms": 90.0, "name": "cell-7", "bridge": "127.0.0.1:50061"})
    request = ProvisionRequest(key.with_suffix(".pub"), settings={"budget_ms": 50.0})
    second = provision(ROBOT_NAME, request, ssh_config=computer.ssh_config)
    assert second.changes == ("wrote /etc/pi0-edge/robot.json",)
    assert second.settings.budget_ms == 50.0
    assert (second.settings.name, second.settings.bridge) == (first.settings.name, first.settings.bridge)


def test_a_second_workstation_is_added_and_the_first_stays(computer: RobotContainer, tmp_path: Path) -> None:
    first, second = make_key(tmp_path, "first"), make_key(tmp_path, "second")
    provisioned(computer, first)
    result = provisioned(computer, second)
    assert len(result.changes) == 1 and result.changes[0].endswith("may flash")
    for key in (first, second):
        robot = RobotHost(ROBOT_NAME, ssh_config=computer.ssh_config_for("pi0-flash", key), key=key)
        assert robot.status()["name"] == ROBOT_NAME


def test_another_owners_trust_is_not_replaced(computer: RobotContainer, tmp_path: Path) -> None:
    key, trust = make_key(tmp_path), make_trust(tmp_path / "trust")
    provisioned(computer, key, trust_folder=trust)
    with pytest.raises(TrustError, match="believes the root of another trust folder"):
        provisioned(computer, key, trust_folder=make_trust(tmp_path / "thief"))
    reasons: list[str] = []
    provisioned(computer, key, reasons, trust_folder=make_trust(trust, version=2))
    assert any("believes the root of" in reason for reason in reasons)
    assert '"version": 1' in computer.path("/var/lib/pi0-edge/tuf/provisioned.root.json").read_text()


def test_a_power_cut_while_provisioning_is_mended_by_the_next(computer: RobotContainer, tmp_path: Path) -> None:
    key = make_key(tmp_path)
    provisioned(computer, key)
    computer.run("rm -rf /usr/lib/pi0-edge; ln -s pi0-edge-gone /usr/lib/pi0-edge; : > /etc/pi0-edge/robot.json")
    computer.cut()
    computer.start()
    result = provisioned(computer, key)
    assert {change.split(":")[0] for change in result.changes} == {"launcher", "wrote /etc/pi0-edge/robot.json"}
    assert provisioned(computer, key).changes == ()


def test_an_account_with_sudo_provisions(computer: RobotContainer, tmp_path: Path) -> None:
    key = make_key(tmp_path)
    computer.run(
        "useradd -m -s /bin/bash jetson && install -d -o jetson -m 700 /home/jetson/.ssh && "
        "install -o jetson -m 600 /root/.ssh/authorized_keys /home/jetson/.ssh/"
    )
    config = computer.ssh_config_for("jetson", None)
    config.write_text(computer.ssh_config.read_text().replace("User root", "User jetson"))
    settings = {"robot": "aloha", "environment": computer.environment()}
    request = ProvisionRequest(key.with_suffix(".pub"), settings=settings)
    with pytest.raises(DeployError, match="not root on robot and `sudo -n true` fails"):
        provision(ROBOT_NAME, request, ssh_config=config)
    computer.run("echo 'jetson ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/jetson")
    assert provision(ROBOT_NAME, request, ssh_config=config).changes


def test_what_is_missing_is_named_with_the_command_that_brings_it(computer: RobotContainer, tmp_path: Path) -> None:
    key = make_key(tmp_path)
    computer.run("mv /usr/bin/rsync /usr/bin/rsync.gone; mv /usr/bin/rrsync /usr/bin/rrsync.gone")
    with pytest.raises(DeployError, match="robot lacks rsync; on the robot: apt-get install rsync"):
        provisioned(computer, key)
    computer.run("printf '#!/bin/sh\\necho rsync  version 3.2.3  protocol version 31\\n' > /usr/bin/rsync")
    computer.run("cp /usr/bin/rsync /usr/bin/rrsync; chmod 755 /usr/bin/rsync /usr/bin/rrsync")
    with pytest.raises(DeployError, match=r"3\.2\.3.*expected 3\.2\.4 or newer"):
        provisioned(computer, key)
    computer.run("mv /usr/bin/rsync.gone /usr/bin/rsync; mv /usr/bin/rrsync.gone /usr/bin/rrsync")
    with pytest.raises(DeployError, match="/opt/none on robot is no SDK environment"):
        provisioned(computer, key, settings={"environment": "/opt/none"})
    with pytest.raises(DeployError, match="provisioned for the first time: --robot and --environment must be given"):
        provision(ROBOT_NAME, ProvisionRequest(key.with_suffix(".pub")), ssh_config=computer.ssh_config)
    with pytest.raises(DeployError, match="is no public key"):
        provision(ROBOT_NAME, ProvisionRequest(key), ssh_config=computer.ssh_config)


def test_the_launcher_runs_with_the_standard_library_alone(tmp_path: Path) -> None:
    for name, content in launcher_files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    argv = [sys.executable, "-S", "-E", tmp_path / "main.py", "dance"]
    ran = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ran.returncode == 2 and "unknown command" in ran.stderr
    assert {Path(name).parent.as_posix() for name in launcher_files()} == {
        ".",
        "pi0_edge",
        "pi0_edge/deploy",
        "pi0_edge/deploy/launcher",
    }


def test_the_same_files_give_the_same_tar() -> None:
    files = {"/etc/pi0-edge/robot.json": json.dumps({}).encode()}
    assert make_tar(files, ["a"], ["b"], []) == make_tar(files, ["a"], ["b"], [])


def test_units_that_say_when_they_start_are_enabled() -> None:
    where = "/etc/systemd/system"
    files = {
        f"{where}/a.service": b"[Unit]\n[Install]\nWantedBy=multi-user.target\n",
        f"{where}/b.service": b"[Unit]\n",
        f"{where}/a.service.d/c.conf": b"[Unit]\n[Install]\n",
        "/etc/udev/rules.d/d.rules": b"\n[Install]",
    }
    assert units_to_enable(files) == ["a.service"]
