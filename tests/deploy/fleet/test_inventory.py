"""Inventories of ansible, and what ssh makes of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pi0_edge.deploy.fleet.inventory import FleetRobot, read_inventory, write_ssh_config
from pi0_edge.errors import DeployError

pytestmark = pytest.mark.system

INI = """
[site_a]
robot-1 ansible_host=10.0.0.1 ansible_port=2222
robot-2

[site_b]
robot-3 ansible_host=fe80::1%eth0
robot-1

[cells:children]
site_a
site_b
"""
YAML = """
all:
  children:
    site_a:
      hosts:
        robot-1: {ansible_host: 10.0.0.1, ansible_port: 2222}
        robot-2:
    site_b:
      hosts:
        robot-3: {ansible_host: "fe80::1%eth0"}
"""
ROBOTS = (FleetRobot("robot-1", "10.0.0.1", 2222), FleetRobot("robot-2"), FleetRobot("robot-3", "fe80::1%eth0"))


def written(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def asked(config: Path, host: str) -> dict[str, str]:
    """What ssh itself would do."""
    ran = subprocess.run(["ssh", "-F", config, "-G", host], capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in ran.stdout.splitlines() if " " in line)


@pytest.mark.parametrize(("name", "content"), [("robots.ini", INI), ("robots.yaml", YAML)])
def test_robots_come_once_and_in_order(tmp_path: Path, name: str, content: str) -> None:
    assert read_inventory(written(tmp_path / name, content)) == ROBOTS


def test_a_folder_and_variables_of_groups(tmp_path: Path) -> None:
    folder = tmp_path / "inventory"
    (folder / "group_vars").mkdir(parents=True)
    (folder / "group_vars" / "site_a.yaml").write_text("ansible_port: 2200\n")
    (folder / "robots.ini").write_text("[site_a]\nrobot-[1:3]\n")
    assert read_inventory(folder) == tuple(FleetRobot(f"robot-{number}", port=2200) for number in (1, 2, 3))


def test_a_limit(tmp_path: Path) -> None:
    inventory = written(tmp_path / "robots.ini", INI)
    assert read_inventory(inventory, "site_b:!robot-1") == (ROBOTS[2],)
    with pytest.raises(DeployError, match="no robot that fits 'site_c'"):
        read_inventory(inventory, "site_c")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[a]\nrobot-1 ansible_port=many\n", "ansible_port of robot-1 is 'many'"),
        ("[a]\nrobot-1 ansible_host='x; reboot'\n", "expected names of letters"),
        ("[a]\nrobot-1 ansible_host='{{ place }}.local'\n", "expected names of letters"),
        ("[a]\n-oProxyCommand=x\n", "expected names of letters"),
        ("[a:vars]\nno equals sign\n", "ansible cannot read"),
        ("", "has no robot"),
    ],
)
def test_what_is_no_inventory_is_named(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(DeployError, match=said):
        read_inventory(written(tmp_path / "robots.ini", content))


def test_a_missing_inventory(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="there is no inventory"):
        read_inventory(tmp_path / "robots.ini")


def test_ssh_takes_addresses_from_the_inventory_and_the_rest_from_the_users_file(tmp_path: Path) -> None:
    own = written(tmp_path / "own config", "Host robot-*\n    Port 2022\n    HostName elsewhere\nHost *\n    User me\n")
    config = tmp_path / "ssh_config"
    write_ssh_config(config, ROBOTS, own)
    first, second, third = (asked(config, robot.name) for robot in ROBOTS)
    assert (first["hostname"], first["port"], first["user"]) == ("10.0.0.1", "2222", "me")
    assert (second["hostname"], second["port"]) == ("elsewhere", "2022")
    assert (third["hostname"], third["port"]) == ("fe80::1%eth0", "2022")
    assert asked(config, "another")["hostname"] == "another"


def test_a_jump_host_of_the_users_file_is_kept(tmp_path: Path) -> None:
    own = written(tmp_path / "own", "Host robot-*\n    ProxyJump site-gate\n")
    write_ssh_config(tmp_path / "ssh_config", ROBOTS, own)
    assert asked(tmp_path / "ssh_config", "robot-1")["proxyjump"] == "site-gate"
