"""The hooks for Mender and RAUC, called as those call them, against an installer that only notes what it is asked."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "os_updates"
NEW, OLD = "8-00112233aabb", "7-ffeeddccbbaa"


class Installer:
    """A robot's installer, as far as the module uses it.

    Attributes:
        asked: The verbs that change something, and what `flash` was called with.
        trial: What is on trial.
        current: What is committed.
    """

    def __init__(self, root: Path) -> None:
        self.asked: list[str] = []
        self.trial: str | None = None
        self.current: str | None = OLD
        self.refusal = ""
        self._root = root
        self._server = socket.socket(socket.AF_UNIX)
        (root / "run/pi0-edge").mkdir(parents=True)
        self._server.bind(str(root / "run/pi0-edge/installer.sock"))
        self._server.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, connection.makefile("rw") as stream:
                for line in stream:
                    for answer in self._answer(json.loads(line)):
                        stream.write(json.dumps(answer) + "\n")
                    stream.flush()

    def _answer(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        verb = request["verb"]
        if verb == "status":
            slots = {"trial": self.trial, "current": self.current}
            yield {"result": {name: release and {"release": release} for name, release in slots.items()}}
            return
        self.asked.append(verb)
        yield {"reason": f"{verb}: because a test asks"}
        if self.refusal:
            yield {"error": self.refusal}
            return
        if verb == "commit":
            self.current, self.trial = self.trial, None
        elif self.trial is not None:
            self.trial = None
        else:
            self.current = OLD
        yield {"result": {"release": self.current}}


@pytest.fixture
def installer(tmp_path: Path) -> Iterator[Installer]:
    root = tmp_path / "root"
    for folder in ("etc/pi0-edge", "var/lib/pi0-edge", "sdk/bin"):
        (root / folder).mkdir(parents=True)
    settings = json.dumps({"environment": str(root / "sdk")})
    (root / "etc/pi0-edge/robot.json").write_text(settings)
    made = Installer(root)
    yield made
    made.close()


@pytest.fixture
def sdk(installer: Installer, tmp_path: Path) -> Path:
    """A `pi0-edge flash --from` that looks into the folder, writes its call down, and puts the release on trial."""
    program = tmp_path / "root/sdk/bin/python"
    program.write_text(f"""#!/bin/sh
echo "$*" >>{tmp_path}/calls
[ -f "$5/cups/manifest.json" ] && [ -d "$5/cups.release" ] || exit 3
[ ! -e {tmp_path}/refuse ] || exit 1
echo '{{"release":"{NEW}","state":"trial"}}'
""")
    program.chmod(0o755)
    return program


class Mender:
    """Calls an update module as Mender does: one argument to ask it, two for a state, in the folder of the files."""

    def __init__(self, folder: Path, payload: Path) -> None:
        self.tree = folder / "tree"
        (self.tree / "tmp").mkdir(parents=True)
        (self.tree / "files").mkdir()
        shutil.copy(payload, self.tree / "files" / payload.name)
        self._root = folder / "root"

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, str(EXAMPLES / "mender_module.py"), *arguments]
        environment = {**os.environ, "PI0_EDGE_ROOT": str(self._root)}
        return subprocess.run(argv, cwd=self.tree, env=environment, capture_output=True, text=True, check=False)

    def state(self, name: str) -> int:
        return self.call(name, str(self.tree)).returncode

    def answer(self, question: str) -> str:
        return self.call(question).stdout

    def deploy(self, *, restart_before_commit=lambda: None) -> list[str]:
        """A whole deployment, with the states that Mender goes through; those that failed end in !."""
        steps: list[str] = []

        def step(name: str) -> bool:
            failed = self.state(name) != 0
            steps.append(name + "!" * failed)
            return not failed

        went_well = step("Download") and step("ArtifactInstall")
        if went_well:
            assert self.answer("NeedsArtifactReboot") == "No\n"
            restart_before_commit()
            went_well = step("ArtifactCommit")
            if not went_well and self.answer("SupportsRollback") == "Yes\n":
                step("ArtifactRollback")
        if not went_well:
            step("ArtifactFailure")
        step("Cleanup")
        return steps


@pytest.fixture
def mender(tmp_path: Path, sdk: Path) -> Mender:
    made = tmp_path / "bundles"
    (made / "cups").mkdir(parents=True)
    (made / "cups.release").mkdir()
    (made / "cups" / "manifest.json").write_text("{}")
    payload = tmp_path / "release.tar"
    subprocess.run(["tar", "-C", made, "-cf", payload, "cups", "cups.release"], check=True)
    return Mender(tmp_path, payload)


def test_a_deployment_of_mender_flashes_on_trial_and_commits(mender: Mender, installer: Installer, tmp_path: Path):
    steps = mender.deploy(restart_before_commit=lambda: setattr(installer, "trial", NEW))
    assert steps == ["Download", "ArtifactInstall", "ArtifactCommit", "Cleanup"]
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call == f"-m pi0_edge.cli flash --from {mender.tree / 'tmp' / 'release'} --no-commit --json"
    assert (installer.asked, installer.current) == (["commit"], NEW)
    assert mender.state("ArtifactCommit") == 0  # once more after a power cut
    assert installer.asked == ["commit"]


def test_a_release_that_the_robot_refuses_fails_in_its_installation(
    mender: Mender, installer: Installer, tmp_path: Path
):
    (tmp_path / "refuse").touch()
    assert mender.deploy() == ["Download", "ArtifactInstall!", "ArtifactFailure", "Cleanup"]
    assert (installer.asked, installer.current) == ([], OLD)


def test_a_restart_before_the_commit_ends_the_trial_and_takes_nothing_else_back(mender: Mender, installer: Installer):
    steps = mender.deploy()  # the trial was in /run
    assert steps == ["Download", "ArtifactInstall", "ArtifactCommit!", "ArtifactRollback", "ArtifactFailure", "Cleanup"]
    assert (installer.asked, installer.current) == ([], OLD)


def test_a_rollback_takes_back_what_this_artifact_brought(mender: Mender, installer: Installer):
    assert mender.state("ArtifactInstall") == 0
    installer.trial = NEW
    assert mender.state("ArtifactRollback") == 0
    assert (installer.asked, installer.trial, installer.current) == (["rollback"], None, OLD)
    installer.current = NEW
    assert mender.state("ArtifactRollback") == 0
    assert (installer.asked, installer.current) == (["rollback"] * 2, OLD)
    assert mender.state("ArtifactRollback") == 0
    assert installer.asked == ["rollback"] * 2


def test_a_refused_commit_fails_with_the_reason_of_the_robot(mender: Mender, installer: Installer):
    assert mender.state("ArtifactInstall") == 0
    installer.trial, installer.refusal = NEW, "the arm is armed, expected DISARMED"
    ran = mender.call("ArtifactCommit", str(mender.tree))
    assert ran.returncode == 1
    assert "the arm is armed, expected DISARMED" in ran.stderr


def test_what_a_later_mender_asks_for_is_answered_by_nothing(mender: Mender):
    ran = mender.call("SomethingNew", str(mender.tree))
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


# RAUC.


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The other slot, as a file system in a file."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("mounting the other slot needs root and mkfs.ext4")
    content = tmp_path / "new-system"
    for name in ("usr/lib/pi0-edge/main.py", "etc/systemd/system/pi0-edge-policy.service"):
        (content / name).parent.mkdir(parents=True, exist_ok=True)
        (content / name).touch()
    return content


def run_handler(tmp_path: Path, content: Path, bundle: Path) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Calls the handler as RAUC does; returns what it said and the file system as it is then."""
    image = tmp_path / "slot.img"
    subprocess.run(["mkfs.ext4", "-q", "-d", content, image, "8M"], check=True)
    program = tmp_path / "pi0-edge"
    program.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/calls\n')
    program.chmod(0o755)
    slots = {
        "RAUC_TARGET_SLOTS": "1 2 ",
        "RAUC_SLOT_CLASS_1": "bootloader",
        "RAUC_SLOT_DEVICE_1": "/dev/null",
        "RAUC_SLOT_NAME_1": "bootloader.0",
        "RAUC_SLOT_CLASS_2": "rootfs",
        "RAUC_SLOT_DEVICE_2": str(image),
        "RAUC_SLOT_NAME_2": "rootfs.1",
        "RAUC_BUNDLE_MOUNT_POINT": str(bundle),
    }
    environment = {**os.environ, **slots, "PI0_EDGE_ROOT": str(tmp_path / "root"), "PI0_EDGE": str(program)}
    argv = ["sh", str(EXAMPLES / "rauc_post_install.sh")]
    ran = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if "mount" in ran.stderr and "failed" in ran.stderr:
        pytest.skip(f"nothing can be mounted here: {ran.stderr.strip()}")
    found = tmp_path / "found"
    subprocess.run(["debugfs", "-R", f"rdump / {found}", image], capture_output=True, check=False)
    return ran, image


def in_image(image: Path, name: str) -> str:
    ran = subprocess.run(["debugfs", "-R", f"cat {name}", image], capture_output=True, text=True, check=False)
    return ran.stdout


def test_rauc_carries_the_settings_over_and_flashes_what_its_bundle_brings(
    tmp_path: Path, installer: Installer, target: Path
):
    bundle = tmp_path / "bundle"
    (bundle / "pi0-edge").mkdir(parents=True)
    ran, image = run_handler(tmp_path, target, bundle)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "rootfs.1 has the settings of this robot\n"
    assert in_image(image, "/etc/pi0-edge/robot.json") == (tmp_path / "root/etc/pi0-edge/robot.json").read_text()
    assert (tmp_path / "calls").read_text() == f"flash --from {bundle}/pi0-edge\n"


def test_rauc_is_told_of_a_system_that_could_start_no_release(tmp_path: Path, installer: Installer, target: Path):
    (target / "usr/lib/pi0-edge/main.py").unlink()
    ran, _ = run_handler(tmp_path, target, tmp_path / "bundle")
    assert ran.returncode == 1
    assert "rootfs.1 has no /usr/lib/pi0-edge/main.py" in ran.stderr
    assert not (tmp_path / "calls").exists()
