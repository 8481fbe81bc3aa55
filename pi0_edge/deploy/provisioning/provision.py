"""Provisions a robot's computer over ssh, as root: what it lacks is added, what is right stays.

It needs python3, rsync, sshd and systemd on the robot, and no network there. It sends one tar and runs one script of
the POSIX shell; releases, slots and journal are never touched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from pi0_edge.deploy.launcher.services import ACCOUNT
from pi0_edge.deploy.launcher.settings import RobotSettings
from pi0_edge.deploy.provisioning.flash_keys import authorized_line
from pi0_edge.deploy.provisioning.payload import make_tar, unit_files, units_to_enable
from pi0_edge.deploy.provisioning.survey import ROBOT_JSON, TRUSTED_ROOT, Survey, survey
from pi0_edge.deploy.release import METADATA_FOLDER
from pi0_edge.deploy.transfer.host_keys import require_known_host
from pi0_edge.deploy.transfer.rsync import TransferMeter, megabytes, send_files
from pi0_edge.deploy.transfer.ssh import Connection, LinkLostError, last_line, quoted
from pi0_edge.errors import DeployError, TrustError
from pi0_edge.progress import ProgressCallback

SDK_WAITING = "/opt/pi0-edge/waiting"
POLICY_WATCHDOG = "/etc/systemd/system/pi0-edge-policy.service.d/watchdog.conf"
BRIDGE_UNITS = ("pi0-edge-bridge.service", "pi0-edge-run.service")

_UNPACK = """set -eu
umask 077
folder=$(mktemp -d /run/pi0-provision.XXXXXX)
trap 'rm -rf "$folder"' EXIT
tar -x -f - -C "$folder"
sh "$folder/provision.sh" "$folder"
"""


@dataclass(frozen=True)
class ProvisionRequest:
    """What a robot's computer shall be.

    Attributes:
        public_key: File of the key that may flash.
        settings: Of `RobotSettings`, by name; what is not here stays as it is on the robot.
        trust_folder: Whose root the robot shall believe; None leaves it as it is.
        sdk_folder: Wheels and their list, which become its SDK environment; None where `settings` names one.
        watchdog_s: Seconds without a sign of life after which systemd ends the policy server; None is the unit's own.
    """

    public_key: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    trust_folder: Path | None = None
    sdk_folder: Path | None = None
    watchdog_s: float | None = None


@dataclass(frozen=True)
class Provisioned:
    """What came of it.

    Attributes:
        settings: Of the robot, as they are in its robot.json now.
        changes: What was changed, one line each; nothing where all was right.
    """

    settings: RobotSettings
    changes: tuple[str, ...]


def provision(
    host: str,
    request: ProvisionRequest,
    *,
    ssh_config: Path | None = None,
    accept_new_host: str | None = None,
    on_reason: Callable[[str], object] | None = None,
    on_progress: ProgressCallback | None = None,
) -> Provisioned:
    """Provisions a robot, or brings one up to date.

    Args:
        host: As ssh knows it, as root or as an account that may use sudo without a password, such as root@cell-7.
        request: What it shall be.
        ssh_config: Instead of the user's own configuration of ssh.
        accept_new_host: Fingerprint that a person compared with the robot's own.
        on_reason: Is called with one line for each step.
        on_progress: Is called while wheels are sent.

    Raises:
        LinkLostError: If the robot cannot be reached.
        TrustError: If the robot believes another root.
        DeployError: If something is missing on it, or a setting is.
    """
    on_reason, on_progress = on_reason or _ignore, on_progress or _ignore
    added = require_known_host(host, ssh_config=ssh_config, accepted=accept_new_host)
    if added is not None:
        on_reason(f"host: {added}")
    line = authorized_line(request.public_key)
    with Connection(host, None, ssh_config=ssh_config) as connection:
        found = survey(connection)
        on_reason(f"computer: {found.name}, {found.computer}, {found.processor}; it has all that provisioning needs")
        root = _trusted_root(found, request.trust_folder, on_reason)
        settings = _settings(found, request)
        if request.sdk_folder is not None:
            environment = _install_sdk(connection, request.sdk_folder, on_reason, on_progress)
            settings = dataclasses.replace(settings, environment=environment)
        version = _check_environment(connection, settings.environment)
        on_reason(f"SDK environment: {settings.environment}, pi0-edge {version}")
        files = {**unit_files(), ROBOT_JSON: settings.to_bytes()}
        if root is not None:
            files[TRUSTED_ROOT] = root
        if request.watchdog_s is not None:
            files[POLICY_WATCHDOG] = f"[Service]\nWatchdogSec={request.watchdog_s:g}\n".encode()
        enable = units_to_enable(files)
        disable = [] if settings.bridge is not None else [unit for unit in BRIDGE_UNITS if unit in enable]
        tar = make_tar(files, [line], [unit for unit in enable if unit not in disable], disable)
        changes = tuple(_run_as_root(connection, _UNPACK, tar, on_reason))
        _check_access(connection, settings.environment)
        on_reason("all was right already" if not changes else f"done: {len(changes)} changes")
    return Provisioned(settings, changes)


def _ignore(told: object) -> None:
    """Where nobody wants to know."""


def _settings(found: Survey, request: ProvisionRequest) -> RobotSettings:
    """What the robot has, with what was asked for; the computer says what nobody did."""
    names = {one.name for one in dataclasses.fields(RobotSettings)}
    kept = {name: value for name, value in found.settings.items() if name in names}
    values: dict[str, Any] = {"name": found.name, "hardware": found.computer, **kept, **request.settings}
    if request.sdk_folder is not None:
        values["environment"] = ""  # known when it is installed
    missing = [f"--{name}" for name in ("robot", "environment") if name not in values]
    if missing:
        raise DeployError(f"{found.name} is provisioned for the first time: {' and '.join(missing)} must be given")
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return RobotSettings(**plain)


def _trusted_root(found: Survey, folder: Path | None, on_reason: Callable[[str], object]) -> bytes | None:
    """The root to write; None where the robot has one, which is of the same trust folder."""
    if folder is None:
        if not found.trusted_root:
            on_reason("trust: none yet, so the robot will refuse every release; --trust gives it a trust folder's root")
        return None
    metadata = folder / METADATA_FOLDER
    try:
        root = (metadata / "root.json").read_bytes()
        earlier = [path.read_bytes() for path in metadata.glob("*.root.json")]
    except OSError as error:
        raise DeployError(f"{folder} is no trust folder ({error}); `pi0-edge keys init` makes one") from error
    if not found.trusted_root:
        on_reason(f"trust: the root of {folder}")
        return root
    if found.trusted_root not in (root, *earlier):
        raise TrustError(
            f"{found.name} believes the root of another trust folder than {folder}; where it changes its owner, remove "
            "/var/lib/pi0-edge/tuf on it first"
        )
    on_reason(f"trust: the robot believes the root of {folder} already; releases bring newer ones")
    return None


def _install_sdk(
    connection: Connection, folder: Path, on_reason: Callable[[str], object], on_progress: ProgressCallback
) -> str:
    """Sends wheels and makes their environment with the Python of the robot's system; its path."""
    wheels = sorted(path.name for path in folder.glob("*.whl"))
    own = next((name for name in wheels if name.startswith("pi0_edge-")), None)
    if own is None or not (folder / "requirements.txt").is_file():
        raise DeployError(f"{folder} holds no requirements.txt with pi0_edge-*.whl; `pi0-edge release sdk` makes one")
    names = ["requirements.txt", *wheels]
    total = sum((folder / name).stat().st_size for name in names)
    on_reason(f"SDK: {len(wheels)} wheels, {megabytes(total)}")
    _run_as_root(connection, f"install -d -m 700 {SDK_WAITING}")
    meter = TransferMeter(total, on_progress)
    send_files(connection, folder, names, SDK_WAITING, as_root=True, on_bytes=meter.at)
    python = f"env PYTHONPATH={SDK_WAITING}/{own} python3 -m pi0_edge.deploy.installer.environments {SDK_WAITING}"
    script = f"set -e; cd /; mkdir -p /run/pi0-edge; flock -w 60 /run/pi0-edge/installer.lock {python} 2>&1"
    lines = _run_as_root(connection, f"{script}; rm -rf {SDK_WAITING}", b"", on_reason)
    return lines[-1]


def _check_environment(connection: Connection, environment: str) -> str:
    """The version of pi0-edge in an environment."""
    code = "import pi0_edge.deploy.installer, importlib.metadata as m; print(m.version('pi0-edge'))"
    try:
        return _run_as_root(connection, quoted(f"{environment}/bin/python", "-c", code))[-1]
    except DeployError as error:
        raise DeployError(
            f"{environment} on {connection.host} is no SDK environment ({error}); give one with --environment, or its "
            "wheels with --sdk-folder"
        ) from error


def _check_access(connection: Connection, environment: str) -> None:
    """The services run as an account of their own."""
    python = f"{environment}/bin/python"
    try:
        _run_as_root(connection, quoted("runuser", "-u", ACCOUNT, "--", python, "-c", "import pi0_edge"))
    except DeployError as error:
        raise DeployError(
            f"the account {ACCOUNT} on {connection.host} cannot use {environment} ({error}); an environment in a "
            "home folder is closed to it: use --sdk-folder, or another place"
        ) from error


def _run_as_root(
    connection: Connection, script: str, stdin: bytes = b"", on_line: Callable[[str], object] = lambda line: None
) -> list[str]:
    """Runs a script of the shell as root; what it prints, line by line as it comes."""
    command = f'if [ "$(id -u)" = 0 ]; then exec sh -c {quoted(script)}; else exec sudo -n sh -c {quoted(script)}; fi'
    process = connection.start(command)
    requests, answers = cast(BinaryIO, process.stdin), cast(BinaryIO, process.stdout)
    lines = []
    try:
        requests.write(stdin)
        requests.close()
        for line in answers:
            lines.append(line.decode(errors="replace").rstrip())
            on_line(lines[-1])
        said = cast(BinaryIO, process.stderr).read().decode(errors="replace")
    except OSError as error:
        process.terminate()
        raise LinkLostError(f"the link to {connection.host} was lost ({error}); run the command again") from error
    if process.wait() == 255 and connection.is_lost():
        raise LinkLostError(f"the link to {connection.host} was lost ({connection.why_lost()}); run the command again")
    if process.returncode:
        why = last_line(said) or last_line("\n".join(lines)) or f"exit code {process.returncode}"
        raise DeployError(f"a step on {connection.host} failed: {why}")
    return lines
