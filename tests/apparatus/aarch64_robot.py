"""A robot on the emulated aarch64 machine, with the wheels of a board, and releases of the shipped policy for it.

What takes minutes to make is made once and kept in `build/aarch64`: the SDK folder and the bundle.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aarch64_machine import FOLDER, ROBOT_NAME, Aarch64Machine
from flashed_robot import FAULTY_PYTHON, POLICY, Workstation
from source_tree import ROOT

from pi0_edge.bundle import open_bundle
from pi0_edge.bundle.checksums import MANIFEST
from pi0_edge.deploy.provisioning.provision import ProvisionRequest, provision
from pi0_edge.deploy.transfer.robot_host import RobotHost
from pi0_edge.errors import BundleError
from pi0_edge.ptq.pipeline import quantize
from pi0_edge.ptq.verdict import Thresholds
from pi0_edge.shipped import shipped_checkpoint

SDK, BUNDLE = FOLDER / "sdk", FOLDER / "bundle"
STICK = "/mnt/stick"
SLOW_UNITS = {
    "pi0-edge-policy.service": "[Unit]\nStartLimitIntervalSec=7200\n[Service]\nTimeoutStartSec=600\n"
    "Environment=PI0_EDGE_LONGEST_START_S=1800\n",
    "pi0-edge-trial-end.timer": "[Timer]\nOnActiveSec=\nOnActiveSec=7200\n",
}
"""Drop-ins for a computer that is 50 times slower than a board: three starts and a trial fit into their times."""
WATCHDOG_S, TRIAL_S = 300.0, 5.0
LIMIT_S = 2400.0
VECTORS = 8


def board_sdk() -> Path:
    """The SDK folder of an aarch64 board, with this checkout's pi0-edge, made by the project's own commands.

    Raises:
        AssertionError: If it cannot be made, such as without a compiler for aarch64 or a package index.
    """
    wheels = FOLDER / "dist"
    commands = [
        [sys.executable, str(ROOT / "tools" / "release_wheels.py"), "--processor", "aarch64", "--output", str(wheels)],
        [sys.executable, "-m", "pi0_edge.cli", "release", "sdk", "--target", "linux-aarch64-cpu", "--output", str(SDK)],
    ]
    for command in commands:
        if "sdk" in command:
            command += ["--wheel", str(next(wheels.glob("pi0_edge-*_aarch64.whl")))]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr[-2000:]
    return SDK


def shipped_bundle() -> Path:
    """The shipped policy in INT8, with a gate of few chunks: a chunk takes this board ten seconds."""
    with contextlib.suppress(BundleError):
        open_bundle(BUNDLE)
        return BUNDLE
    thresholds = Thresholds(chunks=VECTORS)
    made = quantize(
        shipped_checkpoint(), "int8-w8a8", calibration_frames=16, held_out=VECTORS, draws=1, thresholds=thresholds
    )
    assert made.passed, made.verdict.reasons
    made.write_bundle(BUNDLE, replace=True)
    return BUNDLE


class Stopwatch:
    """What took how long, kept in a file as it is measured."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.seconds: dict[str, list[float]] = {}

    def note(self, what: str, seconds: float) -> float:
        """Keeps a figure; returns it."""
        self.seconds.setdefault(what, []).append(round(seconds, 1))
        self._file.write_text(json.dumps(self.seconds, indent=2) + "\n")
        return seconds

    @contextlib.contextmanager
    def measure(self, what: str) -> Iterator[None]:
        """Keeps how long the content took, if it ended well."""
        begun = time.monotonic()
        yield
        self.note(what, time.monotonic() - begun)


@dataclass
class Flashing:
    """A flash that runs on its own."""

    thread: threading.Thread
    failed: list[Exception]


class Aarch64Robot:
    """The robot, and how the workstation reaches it.

    Attributes:
        machine: Its computer.
        reasons: What it told, one line for each decision.
        watch: How long things took.
        environment: Path of its SDK environment, once it is installed.
    """

    def __init__(self, machine: Aarch64Machine, workstation: Workstation, watch: Stopwatch) -> None:
        self.machine, self.workstation, self.watch = machine, workstation, watch
        self.reasons: list[str] = []
        self.environment = ""

    def mount_stick(self) -> None:
        """Makes the second disk readable, as a person would who comes with it."""
        self.machine.run(f"mkdir -p {STICK} && mount -o ro /dev/vdb {STICK}")

    def install_sdk(self) -> None:
        """Makes the first SDK environment from the stick, as docs/flash/sdk.md says; one that is there stays."""
        wheel = self.machine.run(f"ls {STICK}/sdk/pi0_edge-*.whl").stdout.strip()
        module = f"pi0_edge.deploy.installer.environments {STICK}/sdk"
        begun = time.monotonic()
        ran = self.machine.run(f"cd / && PYTHONPATH={wheel} python3 -m {module}", limit_s=2 * LIMIT_S)
        if "installed already" not in ran.stderr:
            self.watch.note("installation of the SDK", time.monotonic() - begun)
        self.environment = ran.stdout.split()[-1]

    def provision(self) -> None:
        """Makes the computer a robot, with times for a slow one."""
        environment = self.environment
        settings = {"robot": "aloha_sim", "environment": environment, "trial_s": TRIAL_S, "serve": ("--threads", "1")}
        request = ProvisionRequest(
            self.workstation.key.with_suffix(".pub"),
            settings=settings,
            trust_folder=self.workstation.trust,
            watchdog_s=WATCHDOG_S,
        )
        with self.watch.measure("provisioning"):
            provision(ROBOT_NAME, request, ssh_config=self.machine.ssh_config, on_reason=self.reasons.append)
        for unit, content in SLOW_UNITS.items():
            folder = f"/etc/systemd/system/{unit}.d"
            self.machine.run(f"mkdir -p {folder} && cat > {folder}/slow.conf", stdin=content)
        faulty = FAULTY_PYTHON.replace("ENVIRONMENT", environment)
        self.machine.run(f"mv {environment}/bin/python {environment}/bin/good-python")
        self.machine.run(f"cat > {environment}/bin/python && chmod 755 {environment}/bin/python", stdin=faulty)
        self.machine.run("systemctl daemon-reload && sync")

    @property
    def host(self) -> RobotHost:
        """As a program of the workstation sees it."""
        config = self.machine.ssh_config_for("pi0-flash", self.workstation.key)
        return RobotHost(ROBOT_NAME, ssh_config=config, key=self.workstation.key, on_reason=self.reasons.append)

    def begin_flash(self, bundle: Path, **options: Any) -> Flashing:
        """Flashes in a thread; a lost robot is given up soon."""
        failed: list[Exception] = []

        def flash() -> None:
            try:
                self.host.flash(bundle, deadline_s=1.0, **options)
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=flash, daemon=True)
        thread.start()
        return Flashing(thread, failed)

    def flash_until(self, bundle: Path, reached: Callable[[], bool], what: str, **options: Any) -> None:
        """Flashes until something holds, cuts the power, and boots again."""
        flashing = self.begin_flash(bundle, **options)

        def holds() -> bool:
            assert flashing.thread.is_alive() or reached(), f"{what} was not seen: {flashing.failed}"
            return reached()

        await_that(holds, what)
        self.machine.cut()
        flashing.thread.join(120)
        self.reasons.clear()
        self.watch.note("boot after a power cut, until ssh answers", self.machine.start())

    def told(self, words: str) -> Callable[[], bool]:
        """Whether the robot told a reason with these words since the reasons were cleared."""
        return lambda: any(words in reason for reason in self.reasons)

    def slots(self) -> dict[str, Any]:
        """slots.json; without a release, no slot."""
        return json.loads(self.machine.read("/var/lib/pi0-edge/slots.json") or '{"current": null, "bad": []}')

    @property
    def current(self) -> int:
        """Sequence of the committed release; 0 where there is none."""
        slot = self.slots()["current"]
        return 0 if slot is None else slot["sequence"]

    def journal(self) -> list[str]:
        """Events, the oldest first."""
        lines = self.machine.read("/var/lib/pi0-edge/journal.jsonl").splitlines()
        return [json.loads(line)["event"] for line in lines]

    def served(self) -> int:
        """Sequence of the release whose policy server is ready at this moment; 0 where none is."""
        show = f"systemctl show {POLICY} -p MainPID --value"
        command = f"systemctl is-active -q {POLICY} && tr '\\0' ' ' < /proc/$({show})/cmdline"
        said = self.machine.run(command, check=False).stdout
        return int(said.partition("/releases/")[2].partition("-")[0] or 0)

    def await_served(self, sequence: int) -> float:
        """Waits until this release is served; returns the seconds that took."""
        begun = time.monotonic()
        pid = f"$(systemctl show {POLICY} -p MainPID --value)"
        serves = f"systemctl is-active -q {POLICY} && grep -q /releases/{sequence}- /proc/{pid}/cmdline"
        # One login: each of them takes the machine seconds, which the service needs.
        self.machine.run(f"until {serves}; do sleep 3; done", limit_s=LIMIT_S)
        return time.monotonic() - begun

    def plant(self, sequence: int, fault: str) -> None:
        """From its next start on, the service of this release has a fault."""
        self.machine.run(f"echo '{sequence} {fault}' > /etc/pi0-fault && sync")

    def receives(self) -> bool:
        """Whether a part of a bundle lies in staging, besides its manifest."""
        find = "find /var/lib/pi0-edge/staging -path '*/bundle/*' ! -path '*/.basis/*' ! -name 'manifest*' -size +0"
        return bool(self.machine.run(find, check=False).stdout)

    def whole_releases(self) -> list[str]:
        """The installed releases; each file of each has the SHA-256 that its manifest says."""
        code = (
            "import hashlib, json, pathlib\n"
            "for folder in sorted(pathlib.Path('/var/lib/pi0-edge/releases').glob('[!.]*')):\n"
            f"    files = json.loads((folder / 'bundle' / {MANIFEST!r}).read_bytes())['files']\n"
            "    for name, about in files.items():\n"
            "        found = hashlib.sha256((folder / 'bundle' / name).read_bytes()).hexdigest()\n"
            "        assert found == about['sha256'], (folder, name)\n"
            "    print(folder.name)\n"
        )
        return self.machine.run("python3 -", stdin=code).stdout.split()

    def ask_a_chunk(self, release: str) -> tuple[float, float]:
        """Asks the policy server for the first chunk of the self-test; seconds, and the cosine to fp32's chunk."""
        code = (
            "import time, pathlib\n"
            "from pi0_edge.bundle import open_bundle\n"
            "from pi0_edge.quant.compare import compare_actions\n"
            "from pi0_edge.self_test.answers import server_answers\n"
            f"bundle = open_bundle(pathlib.Path('/var/lib/pi0-edge/releases/{release}/bundle'))\n"
            "vectors = bundle.self_test()\n"
            "with server_answers('127.0.0.1:50051', None, bundle) as answers:\n"
            "    begun = time.monotonic()\n"
            "    found = answers.chunk(vectors.observations[0], int(vectors.noise_seeds[0, 0]))\n"
            "    print(time.monotonic() - begun, compare_actions(vectors.chunks[0, 0], found).cosine)\n"
        )
        said = self.machine.run(f"cd / && {self.environment}/bin/python -", stdin=code, limit_s=LIMIT_S).stdout
        seconds, cosine = map(float, said.split())
        return seconds, cosine


def await_that(holds: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> float:
    """Waits until a condition holds; returns the seconds that took."""
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < limit_s, f"not in {limit_s:g} s: {what}"
        time.sleep(0.5)
    return time.monotonic() - begun
