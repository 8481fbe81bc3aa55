"""One connection to a robot: the system's ssh as a process, and what its refusals mean.

`Connection` starts one ssh that logs in and does nothing else; sessions and rsync run through its socket, in a folder
that only this user may enter. So there is one login, one thing to lose, and no process is left when it closes.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from pi0_edge.errors import DeployError, MissingDependencyError

FLASH_USER = "pi0-flash"
"""The account on a robot that may send releases and talk with the installer, and can do nothing else."""

CONNECT_S = 15
LOGIN_S = 90.0
_ENDS_S = 1.0
"""How long ssh may take to end after what went through it."""
ALIVE_S, ALIVE_COUNT = 5, 3
"""A robot that does not answer for 15 to 20 seconds is lost."""
OPEN_S = 0.02

OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "UpdateHostKeys": "no",
    "ConnectTimeout": str(CONNECT_S),
    "ServerAliveInterval": str(ALIVE_S),
    "ServerAliveCountMax": str(ALIVE_COUNT),
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ClearAllForwardings": "yes",
    "RequestTTY": "no",
    "LogLevel": "INFO",
}
_LINK_WORDS = (
    "timed out",
    "no route to host",
    "refused",
    "unreachable",
    "could not resolve",
    "reset by",
    "closed by",
    "broken pipe",
    "not responding",
)


class LinkLostError(DeployError):
    """The robot cannot be reached, or could until a moment ago: trying again may help."""


class HostKeyError(DeployError):
    """The robot is not known here, or shows another key than before."""


def default_key() -> Path:
    """Where the private key of this user for flashing lies; `robot provision` makes it."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "pi0-edge" / "flash_key"


class Connection:
    """An open connection; leave the context to close it.

    Attributes:
        host: As ssh knows it: a name of its configuration, an address, or ssh://HOST:PORT.
        user: The account on the robot.
    """

    def __init__(
        self, host: str, user: str | None = FLASH_USER, *, ssh_config: Path | None = None, key: Path | None = None
    ) -> None:
        """Says where to; entering the context connects.

        Args:
            host: As ssh knows it.
            user: The account; None leaves it to `host` and to ssh's configuration.
            ssh_config: Instead of the user's own configuration of ssh.
            key: Private key; None takes `default_key` where it exists, besides those that ssh finds itself.

        Raises:
            DeployError: If the host cannot be one.
            MissingDependencyError: If ssh is not installed.
        """
        self.host, self.user = host, user
        self._arguments = login_arguments(host, user, ssh_config=ssh_config, key=key)
        self._folder: Path | None = None
        self._master: subprocess.Popen[bytes] | None = None
        self._sent: int | None = None

    def __enter__(self) -> Connection:
        """Connects.

        Raises:
            LinkLostError: If the robot cannot be reached.
            HostKeyError: If it is not known here, or shows another key.
            DeployError: If it refuses.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="pi0-ssh-"))  # mode 0700
        options = ["-M", "-S", str(self._socket), "-N", "-T", "-o", "ControlPersist=no"]
        with (self._folder / "stderr").open("wb") as stderr:
            self._master = subprocess.Popen(
                ["ssh", *options, *self._arguments], stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr
            )
        deadline = time.monotonic() + LOGIN_S
        try:
            while not self._socket.exists():
                if not self.is_alive():
                    raise _refusal(self.why_lost(), self.host, self.user)
                if time.monotonic() > deadline:
                    raise LinkLostError(f"{self.host} did not finish the login in {LOGIN_S:.0f} s")
                time.sleep(OPEN_S)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:
        """Ends the connection and everything that runs through it."""
        if self._master is not None:
            self._master.terminate()
            try:
                self._master.wait(5)
            except subprocess.TimeoutExpired:
                self._master.kill()
                self._master.wait()
            self._master = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def is_alive(self) -> bool:
        """Whether the connection stands, as far as ssh knows."""
        self.bytes_sent()
        return self._master is not None and self._master.poll() is None

    def is_lost(self) -> bool:
        """Whether the connection has ended, or ends within a moment.

        Ask it when a program that went through it has ended: ssh ends such programs first, and itself a little later.
        """
        self.bytes_sent()
        if self._master is None:
            return True
        try:
            self._master.wait(_ENDS_S)
        except subprocess.TimeoutExpired:
            return False
        return True

    def bytes_sent(self) -> int | None:
        """What went to the robot so far, encrypted; None where the system does not count it."""
        if self._master is not None and self._master.returncode is None:
            with contextlib.suppress(OSError, ValueError):
                counts = Path(f"/proc/{self._master.pid}/io").read_text()
                self._sent = int(counts.partition("wchar: ")[2].split()[0])
        return self._sent

    def why_lost(self) -> str:
        """What ssh said last."""
        stderr = "" if self._folder is None else (self._folder / "stderr").read_text(errors="replace")
        return last_line(stderr) or f"ssh to {self.host} ended without a word"

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Starts a command on the robot, with pipes to its standard input and output and from its standard error."""
        argv = [*self.shell_words(), "robot", command]
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(
        self, command: str, stdin: bytes = b"", *, timeout_s: float | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs a command on the robot to its end.

        Args:
            command: For the shell of the account.
            stdin: What it reads.
            timeout_s: Longest time; None waits for ever.

        Raises:
            LinkLostError: If the connection is lost, or the time is over.
        """
        argv = [*self.shell_words(), "robot", command]
        try:
            ran = subprocess.run(argv, input=stdin, capture_output=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise LinkLostError(f"{self.host} did not answer in {timeout_s:g} s to {command[:60]!r}") from error
        if ran.returncode == 255 and self.is_lost():
            raise LinkLostError(f"the connection to {self.host} was lost: {self.why_lost()}")
        return ran

    def shell_words(self) -> list[str]:
        """The ssh that another program, such as rsync, starts to reach the robot; any host name will do for it.

        It goes through this connection or fails at once: it never makes one of its own.
        """
        direct = ("ControlMaster=no", "ProxyCommand=false", "BatchMode=yes", "LogLevel=ERROR")
        options = [word for option in direct for word in ("-o", option)]
        return ["ssh", "-F", "none", "-S", str(self._socket), *options]

    @property
    def _socket(self) -> Path:
        if self._folder is None:
            raise DeployError(f"the connection to {self.host} is not open; enter its context first")
        return self._folder / "socket"


def login_arguments(host: str, user: str | None, *, ssh_config: Path | None, key: Path | None) -> list[str]:
    """The options of ssh for a robot, and the robot.

    Raises:
        DeployError: If the host or a file cannot be one.
        MissingDependencyError: If ssh is not installed.
    """
    if shutil.which("ssh") is None:
        raise MissingDependencyError("ssh is not installed: apt-get install openssh-client")
    if not host or host.startswith("-") or any(character.isspace() for character in host):
        raise DeployError(f"{host!r} cannot be a host; expected a name, an address or ssh://HOST:PORT")
    arguments = []
    for file, what in ((ssh_config, "the configuration of ssh"), (key, "the key")):
        if file is not None and not file.is_file():
            raise DeployError(f"{what}, {file}, is not a file")
    if ssh_config is not None:
        arguments += ["-F", str(ssh_config)]
    if key is None and user == FLASH_USER and default_key().is_file():
        key = default_key()
    if key is not None:
        arguments += ["-i", str(key), "-o", "IdentitiesOnly=yes"]
    for name, value in OPTIONS.items():
        arguments += ["-o", f"{name}={value}"]
    if user is not None:
        arguments += ["-l", user]
    return [*arguments, "--", host]


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def quoted(*words: str) -> str:
    """Words as one command for a shell."""
    return shlex.join(words)


def _refusal(said: str, host: str, user: str | None) -> DeployError:
    """What it means that ssh ended before it was logged in."""
    plain = said.lower()
    account = f"the account {user}" if user else "this account"
    if "host identification has changed" in plain or "host key verification failed" in plain:
        return HostKeyError(f"the host key of {host} is not the known one, or none is known ({said})")
    if "permission denied" in plain or "too many authentication failures" in plain:
        return DeployError(
            f"{host} does not let {account} in with this key ({said}); `pi0-edge robot provision --flash-key` adds one"
        )
    if any(word in plain for word in _LINK_WORDS):
        return LinkLostError(f"{host} cannot be reached: {said}; check its power, its network and its name")
    return LinkLostError(f"ssh to {host} failed: {said}")
