"""A robot's computer as a container of this machine's architecture: real systemd, sshd and rsync, up in two seconds.

The base is built once (`build/robot/base`, from the package sources of this machine) and never written again: every
container is a layer over it. A container has a network of its own without a way out; ssh enters through its namespace,
so that no port of this machine is used. What `cut` kills had written stays in this machine's page cache: data that was
never synced is lost only in a recorder of power cuts, not here.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import bad_link
from bad_link import Link, write_plan
from source_tree import ROOT

FOLDER = ROOT / "build" / "robot"
BASE = FOLDER / "base"
ROBOT_NAME = "robot"
"""What every container's host key is known as, and its host name."""
INSIDE = "/opt/checkout"
"""Where a container sees the SDK of this checkout."""
PACKAGES = "systemd-sysv dbus openssh-server rsync python3 python3-venv openssl iproute2 procps sudo"
PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "nsenter": "util-linux",
    "ssh": "openssh-client",
    "rsync": "rsync",
}
START_S, END_S = 60.0, 30.0
MASKED = "apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer dpkg-db-backup.timer fstrim.timer"


@cache
def why_no_container() -> str | None:
    """Builds the base where it is missing; says why no container can run here."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "a container with systemd needs Linux and root"
    missing = {package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    if missing:
        return f"not installed: apt-get install {' '.join(sorted(missing))}"
    try:
        with _locked():
            drop_left_over()
            _build_base()
    except subprocess.CalledProcessError as error:
        return f"the base of the container cannot be built: {_last_line(error.stderr)}"
    return None


class RobotContainer:
    """One container. It is not running until `start`.

    Attributes:
        name: Of the machine.
        ssh_config: A file for ssh -F: `root` may log in to `robot`; see `ssh_config_for`.
    """

    def __init__(self, name: str, binds: Sequence[Path | str] = ()) -> None:
        """Makes an empty layer.

        Args:
            name: Of the machine; two of one process have two names.
            binds: Folders of this machine that it sees read-only, at the same place or as HERE:THERE.
        """
        self.name = f"{name}-{os.getpid()}"
        self._folder = FOLDER / "machines" / self.name
        self._binds = binds
        self._process: subprocess.Popen[bytes] | None = None
        self._init: int | None = None
        for part in ("upper/etc", "work", "root"):
            (self._folder / part).mkdir(parents=True)
        (self._folder / "owner").write_text(_identity(os.getpid()))
        self.set_links(Link())
        self.ssh_config = self.ssh_config_for("root", FOLDER / "key")
        atexit.register(self.drop)

    def start(self) -> RobotContainer:
        """Boots it with what its layer holds and waits until it answers."""
        root = self._folder / "root"
        if not root.is_mount():
            layers = f"lowerdir={BASE},upperdir={self._folder / 'upper'},workdir={self._folder / 'work'}"
            _run("mount", "-t", "overlay", "overlay", "-o", layers, str(root))
        argv = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", f"--directory={root}"]
        argv += [f"--machine={self.name}", f"--hostname={ROBOT_NAME}", "--private-network", "--link-journal=no"]
        argv += ["--console=pipe", *(f"--bind-ro={bind}" for bind in self._binds)]
        with (self._folder / "console").open("ab") as console:
            self._process = subprocess.Popen(
                _in_own_groups(self.name, argv),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        (self._folder / "nspawn").write_text(str(self._process.pid))
        nspawn = self._process.pid
        self._wait(lambda: _process_1(nspawn) is not None, "has no process 1")
        self._init = _process_1(nspawn)
        (self._folder / "init").write_text(str(self._init))
        self._wait(lambda: self.run("systemctl is-active --quiet ssh", check=False).returncode == 0, "has no sshd")
        self._wait(lambda: self.run("ss -Hltn sport = 22", check=False).stdout != "", "does not listen")
        return self

    def cut(self) -> None:
        """Cuts the power: SIGKILL to everything in it at once."""
        if self._init is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._init, signal.SIGKILL)
        self._ended()

    def stop(self) -> None:
        """Shuts it down properly."""
        if self._init is not None:
            os.kill(self._init, signal.SIGRTMIN + 4)  # systemd's word for power off
        try:
            self._ended()
        except subprocess.TimeoutExpired:
            self.cut()

    def drop(self) -> None:
        """Ends it and forgets what it wrote."""
        atexit.unregister(self.drop)
        self.cut()
        _remove(self._folder)

    def run(self, command: str, *, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a command of a shell in it as root, without the network.

        Raises:
            AssertionError: If it fails and `check` is set.
        """
        argv = self._entering(command)
        ran = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
        assert ran.returncode == 0 or not check, f"{command}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
        return ran

    def popen(self, command: str, *, stdin: str) -> subprocess.Popen[str]:
        """As `run`, and does not wait; its standard output is a pipe. What runs inside outlives the one who entered."""
        with tempfile.TemporaryFile("w+") as file:
            file.write(stdin)
            file.seek(0)
            return subprocess.Popen(self._entering(command), stdin=file, stdout=subprocess.PIPE, text=True)

    def _entering(self, command: str) -> list[str]:
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]
        return ["nsenter", "-t", str(self._init), "-a", *environment, "sh", "-c", command]

    def path(self, inside: str) -> Path:
        """Where a file of it lies on this machine, while it runs or not; /run is there only while it runs."""
        root = self._folder / "root" if self._init is None else Path(f"/proc/{self._init}/root")
        return root / inside.lstrip("/")

    def environment(self) -> str:
        """A Python environment in it with the SDK of this checkout; make it with `bound_environment`."""
        paths = f"PYTHONPATH={INSIDE}/source:{INSIDE}/packages LD_LIBRARY_PATH={INSIDE}/python/lib"
        paths += " PYTHONDONTWRITEBYTECODE=1"
        python = f'#!/bin/sh\n{paths} exec {INSIDE}/python/bin/python{sys.version_info[0]} "$@"\n'
        library = f"{INSIDE}/lib/python{sys.version_info[0]}.{sys.version_info[1]}"
        self.run(f"mkdir -p {library} && ln -sfn {INSIDE}/packages {library}/site-packages")
        command = f"mkdir -p {INSIDE}/bin && cat > {INSIDE}/bin/python && chmod 755 {INSIDE}/bin/python"
        self.run(command, stdin=python)
        return INSIDE

    def set_links(self, *links: Link) -> None:
        """What the next connections are like; the last of them is like all that follow."""
        write_plan(self._folder / "links", links)

    def carried(self) -> list[int]:
        """Bytes to the robot of each connection that ended."""
        file = self._folder / "carried"
        return [int(line) for line in file.read_text().splitlines()] if file.exists() else []

    def ssh_config_for(self, user: str, key: Path | None, *, known: bool = True) -> Path:
        """A file for ssh -F.

        Args:
            user: Who logs in where the caller does not say.
            key: Private key; None offers none.
            known: Whether the host key is known.
        """
        words = [sys.executable, bad_link.__file__, "127.0.0.1", "22"]
        words += ["--plan", str(self._folder / "links"), "--carried", str(self._folder / "carried")]
        enter = f"nsenter -t $(cat {shlex.quote(str(self._folder / 'init'))}) -n {shlex.join(words)}"
        known_hosts = FOLDER / "known_hosts" if known else self._folder / "known_hosts"
        lines = [
            f"Host {ROBOT_NAME} {self.name}",
            f"    User {user}",
            f"    HostKeyAlias {ROBOT_NAME}",
            f"    UserKnownHostsFile {known_hosts}",
            "    GlobalKnownHostsFile none",
            "    LogLevel ERROR",
            "    IdentitiesOnly yes",
            f"    IdentityFile {key or 'none'}",
            f"    ProxyCommand {enter.replace('%', '%%')}",
        ]
        file = self._folder / f"ssh_config_{user}{'' if known else '_unknown'}"
        file.write_text("\n".join(lines) + "\n")
        return file

    def _wait(self, ready: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + START_S
        while not ready():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                console = (self._folder / "console").read_text(errors="replace")[-2000:]
                raise AssertionError(f"{self.name} {otherwise}\n{console}")
            time.sleep(0.05)

    def _ended(self) -> None:
        if self._process is not None:
            self._process.wait(END_S)
        self._process = self._init = None
        (self._folder / "init").unlink(missing_ok=True)


def bound_environment() -> list[str]:
    """What a container must see so that the SDK of this checkout runs in it without an installation.

    The folders have other places there: services see neither /home and /root nor this machine's /tmp.
    """
    folders = {"source": str(ROOT), "packages": sysconfig.get_path("purelib"), "python": sys.base_prefix}
    return [f"{Path(folder).resolve()}:{INSIDE}/{name}" for name, folder in folders.items()]


def main() -> None:
    """Starts a robot for a person, and ends it with Enter: docs/flash/index.md."""
    if (reason := why_no_container()) is not None:
        sys.exit(reason)
    robot = RobotContainer("person", bound_environment()).start()
    print(f"a robot runs; programs of pi0-edge reach it with:\n  --ssh-config {robot.ssh_config}")
    print(f"it has the SDK of this checkout in:\n  --environment {robot.environment()}")
    with contextlib.suppress(KeyboardInterrupt, EOFError):
        input("Enter ends it and forgets what it wrote ")
    robot.drop()


def _build_base() -> None:
    if BASE.exists():
        return
    partial = FOLDER / "base.partial"
    _remove(partial)
    if not (FOLDER / "key").exists():
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "robot container", "-f", str(FOLDER / "key"))
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite = release["VERSION_CODENAME"].strip('"')
    known = [Path("/etc/apt/sources.list.d") / f"{release['ID']}.sources", Path("/etc/apt/sources.list")]
    sources = next((str(path) for path in known if path.exists()), "")
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")]
    argv = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={PACKAGES.replace(' ', ',')}"]
    argv += ['--aptopt=Acquire::Check-Valid-Until "false"', "--dpkgopt=force-unsafe-io", *left_out]
    _run(*argv, suite, str(partial), sources)
    ssh = partial / "root" / ".ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(FOLDER / "key.pub", ssh / "authorized_keys")
    for key in (partial / "etc/ssh").glob("ssh_host_*_key*"):
        key.unlink()
    host_key = partial / "etc/ssh/ssh_host_ed25519_key"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(host_key))
    public = host_key.with_suffix(".pub").read_text().split()[:2]
    (FOLDER / "known_hosts").write_text(f"{ROBOT_NAME} {' '.join(public)}\n")
    (partial / "etc/hostname").write_text(f"{ROBOT_NAME}\n")
    (partial / "etc/machine-id").write_text("")
    _run("chroot", str(partial), "systemctl", "-q", "enable", "ssh")
    _run("chroot", str(partial), "systemctl", "-q", "mask", *MASKED.split())
    partial.rename(BASE)


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """One builder at a time."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def drop_left_over() -> None:
    """Ends the containers of processes that were killed."""
    for folder in (FOLDER / "machines").glob("*"):
        owner = folder / "owner"
        identity = owner.read_text() if owner.exists() else ""
        if identity and identity == _identity(int(identity.split()[0])):
            continue
        with contextlib.suppress(OSError, ValueError):
            nspawn = int((folder / "nspawn").read_text())
            if folder.name.encode() in Path(f"/proc/{nspawn}/cmdline").read_bytes():
                os.kill(_process_1(nspawn) or nspawn, signal.SIGKILL)
                time.sleep(1)
        _remove(folder)


def _own_groups(name: str) -> list[Path]:
    """Control groups of systemd for one container: in one of all, their units count each other's processes."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, inside = line.split(":", 2)
        tops = {"": ("unified", "."), "name=systemd": ("systemd",)}.get(controllers, ())
        folders = [Path("/sys/fs/cgroup") / top / inside.strip("/") for top in tops]
        found += [folder / name for folder in folders if (folder / "cgroup.procs").exists()][:1]
    return found


def _in_own_groups(name: str, argv: Sequence[str]) -> list[str]:
    """A command that runs in them, as far as this machine lets us make any."""
    made = []
    for group in _own_groups(name):
        with contextlib.suppress(OSError):
            group.mkdir(exist_ok=True)
            made.append(shlex.quote(str(group / "cgroup.procs")))
    enter = "".join(f"echo $$ > {procs}; " for procs in made)
    return ["sh", "-c", f'{enter}exec "$@"', "sh", *argv]


def _identity(process: int) -> str:
    """Of a process: its number and when it began, since numbers are used again; empty where it is gone."""
    try:
        return f"{process} {Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[19]}"
    except OSError:
        return ""


def _process_1(nspawn: int) -> int | None:
    """The container's process 1, as this machine counts."""
    try:
        children = Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split()
        for child in children:
            numbers = Path(f"/proc/{child}/status").read_text().partition("NSpid:")[2].splitlines()[0].split()
            if numbers[-1] == "1":
                return int(child)
    except (OSError, IndexError):
        pass
    return None


def _remove(folder: Path) -> None:
    root = folder / "root"
    for _ in range(100):
        if not root.is_mount() or subprocess.run(["umount", root], capture_output=True, check=False).returncode == 0:
            break
        time.sleep(0.05)
    assert not root.is_mount(), f"{root} is still in use"
    for group in _own_groups(folder.name):
        for inner, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(inner)
    shutil.rmtree(folder, ignore_errors=True)


def _run(*argv: str) -> None:
    subprocess.run(argv, capture_output=True, text=True, check=True)


def _last_line(text: str | None) -> str:
    return (text or "").strip().rpartition("\n")[2]


if __name__ == "__main__":
    main()
