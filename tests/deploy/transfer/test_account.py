"""What the account for flashing cannot do, and what a robot that is not known gets: nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from receiving_robot import STAGING, Receiver
from robot_container import FOLDER, ROBOT_NAME
from unsigned_releases import shards, write_release

from pi0_edge.deploy.transfer.host_keys import require_known_host, shown_key
from pi0_edge.deploy.transfer.robot_host import RobotHost
from pi0_edge.deploy.transfer.rsync import send_files
from pi0_edge.deploy.transfer.ssh import Connection, HostKeyError, LinkLostError
from pi0_edge.errors import DeployError

pytestmark = [pytest.mark.real_time, pytest.mark.system]


@pytest.fixture
def unknown_config(receiver: Receiver) -> Path:
    config = receiver.container.ssh_config_for("pi0-flash", receiver.key, known=False)
    (config.parent / "known_hosts").unlink(missing_ok=True)
    return config


@pytest.mark.parametrize("command", ["", "sh", "cat /etc/passwd", "pi0-edge; id", "rsync --server --sender . /etc"])
def test_it_has_no_shell(receiver: Receiver, command: str) -> None:
    argv = ["ssh", "-F", receiver.ssh_config, ROBOT_NAME, *([command] if command else [])]
    ran = subprocess.run(argv, input=b"id\n", capture_output=True, check=False)
    assert ran.returncode not in (0, 255), ran
    assert b"uid=" not in ran.stdout and b"root:" not in ran.stdout


def test_it_has_no_terminal(receiver: Receiver) -> None:
    ran = subprocess.run(["ssh", "-tt", "-F", receiver.ssh_config, ROBOT_NAME], capture_output=True, check=False)
    assert ran.returncode == 255 and b"PTY allocation request failed" in ran.stderr


def test_it_forwards_no_port(receiver: Receiver) -> None:
    argv = ["ssh", "-F", receiver.ssh_config, "-W", "127.0.0.1:22", ROBOT_NAME]
    ran = subprocess.run(argv, input=b"", capture_output=True, check=False)
    assert ran.returncode == 255 and b"SSH-2.0" not in ran.stdout


@pytest.mark.parametrize("destination", ["../releases", "/../releases", "x/../../releases", "/etc"])
def test_nothing_is_written_outside_of_staging(receiver: Receiver, tmp_path: Path, destination: str) -> None:
    (tmp_path / "file").write_text("mine")
    with Connection(ROBOT_NAME, ssh_config=receiver.ssh_config, key=receiver.key) as connection:
        try:
            send_files(connection, tmp_path, ["file"], destination)
        except DeployError:
            return
    # An absolute path is one below staging.
    assert receiver.container.run("find / -xdev -name file -newer /usr/lib/pi0-edge/main.py").stdout.splitlines() == [
        f"{STAGING}{destination}/file"
    ]


def test_a_link_that_leads_out_of_staging_writes_nothing_there(receiver: Receiver, tmp_path: Path) -> None:
    """Whoever has the key may make links with an rsync of their own; root's folders stay as they are."""
    (tmp_path / "out").symlink_to("/var/lib/pi0-edge")
    remote = f"ssh -F {receiver.ssh_config}"
    subprocess.run(["rsync", "-l", "-e", remote, tmp_path / "out", f"{ROBOT_NAME}:"], check=True)
    (tmp_path / "slots.json").write_text("{}")
    ran = subprocess.run(
        ["rsync", "-e", remote, tmp_path / "slots.json", f"{ROBOT_NAME}:out/"], capture_output=True, check=False
    )
    assert ran.returncode != 0
    assert not receiver.container.path("/var/lib/pi0-edge/slots.json").exists()


def test_nothing_is_read(receiver: Receiver, tmp_path: Path) -> None:
    receiver.container.run(f"echo secret > {STAGING}/secret; chmod 666 {STAGING}/secret")
    argv = ["rsync", "-e", f"ssh -F {receiver.ssh_config}", f"{ROBOT_NAME}:secret", tmp_path / "secret"]
    assert subprocess.run(argv, capture_output=True, check=False).returncode != 0
    assert not (tmp_path / "secret").exists()


def test_an_unknown_robot_shows_its_fingerprint_and_gets_nothing(
    receiver: Receiver, unknown_config: Path, tmp_path: Path
) -> None:
    write_release(tmp_path / "cups", shards(10))
    robot = RobotHost(ROBOT_NAME, ssh_config=unknown_config, key=receiver.key)
    listed = subprocess.run(
        ["ssh-keygen", "-l", "-f", FOLDER / "known_hosts"], capture_output=True, text=True, check=True
    )
    fingerprint = listed.stdout.split()[1]
    with pytest.raises(
        DeployError, match=f"robot is not known here.*--accept-new-host {fingerprint}".replace("+", "[+]")
    ):
        robot.flash(tmp_path / "cups")
    assert not (unknown_config.parent / "known_hosts").exists()
    with pytest.raises(DeployError, match="SHA256:wrong was accepted: it may be another machine"):
        robot.accept_host("SHA256:wrong")
    robot.accept_host(fingerprint)
    assert robot.status() == {"current": None}
    assert require_known_host(ROBOT_NAME, ssh_config=unknown_config) is None


def test_a_robot_with_another_key_is_refused(receiver: Receiver, unknown_config: Path, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    public = (tmp_path / "other.pub").read_text().split()[:2]
    (unknown_config.parent / "known_hosts").write_text(f"{ROBOT_NAME} {' '.join(public)}\n")
    with pytest.raises(DeployError, match="shows another host key than before"):
        RobotHost(ROBOT_NAME, ssh_config=unknown_config, key=receiver.key).status()
    with pytest.raises(DeployError, match="shows another host key than before"):
        require_known_host(
            ROBOT_NAME, ssh_config=unknown_config, accepted=shown_key(ROBOT_NAME, ssh_config=unknown_config).fingerprint
        )
    with pytest.raises(HostKeyError), Connection(ROBOT_NAME, ssh_config=unknown_config):
        pass


def test_another_key_is_refused_in_words(receiver: Receiver, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    config = receiver.container.ssh_config_for("pi0-flash", tmp_path / "other")
    with pytest.raises(DeployError, match="does not let the account pi0-flash in with this key"):
        RobotHost(ROBOT_NAME, ssh_config=config, key=tmp_path / "other").status()


def test_a_robot_that_was_not_provisioned_says_so(receiver: Receiver) -> None:
    with Connection(ROBOT_NAME, "root", ssh_config=receiver.container.ssh_config) as connection:
        assert connection.run("true").returncode == 0
    receiver.container.run("mv /usr/lib/pi0-edge/main.py /usr/lib/pi0-edge/gone.py")
    try:
        with pytest.raises(DeployError, match=r"has no working installer: .*No such file.*robot provision"):
            receiver.host().status()
    finally:
        receiver.container.run("mv /usr/lib/pi0-edge/gone.py /usr/lib/pi0-edge/main.py")


@pytest.mark.parametrize("host", ["-oProxyCommand=id", "", "two words"])
def test_what_cannot_be_a_host(host: str) -> None:
    with pytest.raises(DeployError, match="cannot be a host"):
        Connection(host)


@pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed")
def test_a_name_that_nobody_knows() -> None:
    with (
        pytest.raises(LinkLostError, match=r"pi0-nowhere.invalid cannot be reached"),
        Connection("pi0-nowhere.invalid"),
    ):
        pass
