"""An emulated board whose flash memory can be written: it keeps its port, and can be left half written.

Run as a script, this file is the board's power and flash memory: it runs the image in its folder, and answers on a
control socket. `python flashable_board.py write SOCKET IMAGE` is the program that writes an image, as st-flash is for a
real board. Half written, the board has power and is silent.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import tty
from collections.abc import Iterator
from pathlib import Path

from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.emulator.control_socket import answer_next, listen, request
from firmware_bridge.errors import EmulatorError
from pi0_edge.deploy.installer.firmware_command import run_firmware_command

NAME = "the flashable board"


class FlashableBoard:
    """The test's end of it.

    Attributes:
        port: Serial port, the same for every image.
        writes: Images that were written or begun, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.port = folder / "port"
        self.socket = folder / "socket"
        self._log = folder / "writes"

    @property
    def command(self) -> tuple[str, ...]:
        """For `firmware_command` in the settings of a robot."""
        return (sys.executable, str(Path(__file__)), "write", str(self.socket), "{image}")

    @property
    def writes(self) -> list[Path]:
        return [Path(line) for line in self._log.read_text().splitlines()] if self._log.exists() else []

    def write(self, image: Path) -> None:
        """Writes an image, as someone else than the installer does."""
        run_firmware_command([word.replace("{image}", str(image)) for word in self.command])

    def fail_next(self, how: str) -> None:
        """The next write fails `before` it erases anything, or `half` done; or it does not end (`hang`)."""
        request(self.socket, {"fail": how}, NAME)


@contextlib.contextmanager
def flashable_board(folder: Path, image: Path) -> Iterator[FlashableBoard]:
    """A board that runs `image`, until the context ends."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(image, folder / "flash.elf")
    argv = [sys.executable, str(Path(__file__)), "run", str(folder)]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE)  # it ends when this end of the pipe does
    board = FlashableBoard(folder)
    try:
        deadline = time.monotonic() + 20.0
        while not (board.socket.exists() and board.port.exists()):
            assert child.poll() is None and time.monotonic() < deadline, "the board did not start"
            time.sleep(0.05)
        yield board
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(10.0)


class _Supervisor:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._flash = folder / "flash.elf"
        self._board: EmulatedBoard | None = None
        self._silent: list[int] = []
        self._fail = ""

    def run(self) -> None:
        self._power_on()
        control = listen(self._folder / "socket")
        while True:
            ready, _, _ = select.select([control, sys.stdin], [], [], 0.2)
            if sys.stdin in ready:
                return
            if ready:
                answer_next(control, self._answer)

    def stop(self) -> None:
        if self._board is not None:
            self._board.stop()

    def _answer(self, line: bytes) -> bytes:
        asked = json.loads(line)
        try:
            answer = self._write(Path(asked["write"])) if "write" in asked else self._set_fault(asked["fail"])
        except (EmulatorError, OSError) as error:
            answer = {"error": str(error)}
        return json.dumps(answer).encode() + b"\n"

    def _set_fault(self, how: str) -> dict[str, object]:
        self._fail = how
        return {}

    def _write(self, image: Path) -> dict[str, object]:
        with (self._folder / "writes").open("a") as file:
            file.write(f"{image}\n")
        fail, self._fail = self._fail, ""
        if fail == "before":
            return {"error": "no programmer was found"}
        if self._board is not None:
            self._board.stop()
            self._board = None
        self._flash.unlink(missing_ok=True)
        if fail:
            self._be_silent()
            return {"error": "the programmer was unplugged"} if fail == "half" else {"hang": True}
        shutil.copyfile(image, self._flash)
        self._power_on()
        return {}

    def _power_on(self) -> None:
        self._board = EmulatedBoard(self._flash)
        self._board.start()
        self._name_port(self._board.port)

    def _be_silent(self) -> None:
        ours, theirs = os.openpty()
        tty.setraw(theirs)
        self._silent += [ours, theirs]
        self._name_port(os.ttyname(theirs))

    def _name_port(self, port: str) -> None:
        temporary = self._folder / ".port"
        temporary.symlink_to(port)
        temporary.replace(self._folder / "port")


def main(verb: str, *arguments: str) -> int:
    """Runs the board, or writes an image to one that runs."""
    if verb == "write":
        try:
            answer = request(Path(arguments[0]), {"write": arguments[1]}, NAME)
        except EmulatorError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        while "hang" in answer:
            time.sleep(1.0)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    supervisor = _Supervisor(Path(arguments[0]))
    try:
        supervisor.run()
    except KeyboardInterrupt:
        return 0
    finally:
        supervisor.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
