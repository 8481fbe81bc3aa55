"""The microcontroller board in QEMU: `lm3s6965evb` behind a serial line that a host opens like a serial device.

Two child processes, which end with the caller: QEMU with the firmware image, bound to one CPU (across
CPUs each received byte costs a futex round trip), and the line (see `line`), which must be connected before the
board runs its first instruction. A board with servos has a third: its buses (see `servo_bus`), on the second and the
third UART. Builds nothing: `make firmware` makes the image.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from firmware_bridge.emulator.child_process import start_child, stop_child
from firmware_bridge.emulator.line_control import LineControl
from firmware_bridge.emulator.robot_servos import servos_at_home
from firmware_bridge.emulator.servo_bus.child import ServoBusProcess
from firmware_bridge.emulator.servo_bus.control import ServoBusControl
from firmware_bridge.emulator.servo_bus.settings import CLIENT, BusSettings
from firmware_bridge.errors import EmulatorError
from pi0_edge.errors import Pi0EdgeError
from pi0_edge.robots import load_robot


class QmpClient:
    """Sends commands to a running QEMU."""

    def __init__(self, path: Path, timeout_s: float = 5.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise EmulatorError(f"QEMU does not answer at {path}: {error}") from error
        self._lines = self._socket.makefile("rb")
        self._receive()  # greeting
        self.execute("qmp_capabilities")

    def execute(self, command: str) -> dict[str, Any]:
        """Runs one command without arguments.

        Raises:
            EmulatorError: QEMU refuses it or is gone.
        """
        try:
            self._socket.sendall(json.dumps({"execute": command}).encode() + b"\n")
            answer = self._receive()
            while "event" in answer:
                answer = self._receive()
        except OSError as error:
            raise EmulatorError(f"QEMU did not answer {command!r}: {error}") from error
        if "error" in answer:
            raise EmulatorError(f"QEMU refused {command!r}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Ends the connection."""
        self._lines.close()
        self._socket.close()

    def _receive(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise EmulatorError("QEMU closed its control socket")
        return json.loads(line)


QEMU = "qemu-system-arm"
MACHINE = "lm3s6965evb"
_BUILD = Path(__file__).parents[1] / "firmware" / "build"
DEFAULT_IMAGE = _BUILD / MACHINE / "firmware.elf"
"""ALOHA without servos: its joints are taken to be where they are commanded."""

_START_LIMIT_S = 15.0
_FIRST_INSTRUCTIONS_S = 0.05


class EmulatedBoard:
    """One emulated board with its line.

    Attributes:
        port: pseudo-terminal for the host, valid while the board runs.
        record: File that receives everything the board sends, if any.
        line: Injects faults into the line.
    """

    def __init__(
        self,
        image: Path = DEFAULT_IMAGE,
        *,
        baud: int = 921600,
        cpu: int | None = None,
        fault_seed: int = 0,
        record: Path | None = None,
        servos: Sequence[BusSettings] = (),
        goals: Path | None = None,
        exact_line: bool = False,
    ) -> None:
        """Prepares a board; `start` runs it.

        Args:
            image: Firmware image (ELF).
            baud: Bits per second of the line in both directions.
            cpu: The processor that QEMU runs on; the last one of this process where None.
            fault_seed: Seed of the injected line faults.
            record: File that receives everything the board sends, whether or not a host listens.
            servos: What is on its servo buses, at most two; the image must have a back end for them.
            goals: File that receives when packets with goals have left on those buses, see `servo_bus.goal_log`.
            exact_line: For measurements on an idle machine, see `LineDirection`.
        """
        self.image = image
        self.port = ""
        self._baud = baud
        self._cpu = max(os.sched_getaffinity(0)) if cpu is None else cpu
        self._fault_seed = fault_seed
        self._exact_line = exact_line
        self.record = record
        self._servos = servos
        self._goals = goals
        self._buses: ServoBusProcess | None = None
        self._directory = Path()
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "EmulatedBoard":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Powers the board on, and returns when its port can be opened.

        Raises:
            EmulatorError: QEMU or the image is missing, or QEMU ends at once.
        """
        program = require_qemu()
        require_image(self.image)
        self._directory = Path(tempfile.mkdtemp(prefix="emulated-board-"))
        try:
            self._start_qemu(program)
            self._start_line()
            self._start_servos()
            self._run()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends both processes and removes their sockets."""
        while self._children:
            stop_child(self._children.pop())
        if self._buses is not None:
            self._buses.stop()
            self._buses = None
        if self._directory != Path():
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = Path()
        self.port = ""

    def check_alive(self) -> None:
        """Raises `EmulatorError` where QEMU or the line has ended."""
        for child, name in zip(self._children, ("qemu", "line"), strict=False):
            if child.poll() is not None:
                raise EmulatorError(f"the emulated board died: {name} ended with {child.returncode}{self._log(name)}")
        if self._buses is not None:
            self._buses.check_alive()

    @property
    def line(self) -> LineControl:
        """Injects faults into the line."""
        return LineControl(self._directory / "control")

    @property
    def servos(self) -> ServoBusControl:
        """Injects faults into the servos and tells their state.

        Raises:
            EmulatorError: The board has none.
        """
        if self._buses is None:
            raise EmulatorError("this board has no servos; start it with some")
        return self._buses.control

    def reset(self) -> None:
        """Resets the microcontroller, as its reset button does."""
        self._qmp("system_reset")

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stops the whole emulator while its hardware counter runs on, as an overloaded machine does."""
        os.kill(self._children[0].pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._children[0].pid, signal.SIGCONT)

    def _start_qemu(self, program: str) -> None:
        serial, qmp = self._directory / "serial", self._directory / "qmp"
        argv = [program, "-M", MACHINE, "-kernel", str(self.image.resolve()), "-display", "none", "-monitor", "none"]
        argv += ["-nodefaults", *_uart("host", serial)]
        for number in range(len(self._servos)):
            argv += _uart(f"bus{number}", self._bus_path(number))
        argv += ["-qmp", f"unix:{qmp},server=on,wait=off", "-S"]
        log = self._directory / "qemu.log"
        self._children.append(start_child(argv, log=log, cpus=frozenset({self._cpu}), urgent=True))
        deadline = time.monotonic() + _START_LIMIT_S
        while not (serial.exists() and qmp.exists()):
            self.check_alive()
            if time.monotonic() > deadline:
                raise EmulatorError(f"QEMU opened no sockets within {_START_LIMIT_S:.0f} s{self._log('qemu')}")
            time.sleep(0.01)

    def _start_line(self) -> None:
        argv = [sys.executable, "-m", "firmware_bridge.emulator.line", "--board", str(self._directory / "serial")]
        argv += ["--control", str(self._directory / "control"), "--baud", str(self._baud)]
        argv += ["--seed", str(self._fault_seed)]
        argv += ["--record", str(self.record.resolve())] if self.record else []
        argv += ["--exact"] if self._exact_line else []
        line = start_child(argv, log=self._directory / "line.log", urgent=True, stdout=subprocess.PIPE)
        self._children.append(line)
        output = line.stdout
        if output is None or not select.select([output], [], [], _START_LIMIT_S)[0]:
            raise EmulatorError(f"the line did not start within {_START_LIMIT_S:.0f} s{self._log('line')}")
        line = output.readline()
        if not line:
            line.wait(_START_LIMIT_S)
            self.check_alive()
        self.port = json.loads(line)["port"]

    def _start_servos(self) -> None:
        if self._servos:
            buses = [
                dataclasses.replace(bus, connection=CLIENT, socket=str(self._bus_path(number)))
                for number, bus in enumerate(self._servos)
            ]
            self._buses = ServoBusProcess(buses, goals=self._goals)
            self._buses.start()

    def _bus_path(self, number: int) -> Path:
        return self._directory / f"bus{number}"

    def _run(self) -> None:
        """Lets the processor run; an image that is no firmware ends QEMU at once."""
        try:
            self._qmp("cont")
            self._children[0].wait(_FIRST_INSTRUCTIONS_S)
        except subprocess.TimeoutExpired:
            return
        except EmulatorError:
            self._children[0].wait(_START_LIMIT_S)
        self.check_alive()

    def _qmp(self, command: str) -> None:
        client = QmpClient(self._directory / "qmp")
        try:
            client.execute(command)
        finally:
            client.close()

    def _log(self, name: str) -> str:
        with contextlib.suppress(OSError):
            if text := (self._directory / f"{name}.log").read_text(errors="replace").strip():
                return f"; it said: {text[-400:]}"
        return ""


def image_with_servos(robot: str) -> Path:
    """The image of a robot that measures its joints; `make firmware` makes those of aloha and so101."""
    return _BUILD / robot / MACHINE / "firmware.elf"


def _uart(name: str, path: Path) -> list[str]:
    """The options for the next UART of the board, on a socket."""
    return ["-chardev", f"socket,id={name},path={path},server=on,wait=off", "-serial", f"chardev:{name}"]


def require_qemu() -> str:
    """The path of QEMU.

    Raises:
        EmulatorError: If it is not installed.
    """
    program = shutil.which(QEMU)
    if program is None:
        raise EmulatorError(
            f"{QEMU} is not installed; run `sudo apt-get install --no-install-recommends qemu-system-arm`"
        )
    return program


def require_image(image: Path) -> None:
    """Raises `EmulatorError` where a firmware image was not made."""
    if not image.is_file():
        raise EmulatorError(f"firmware image {image} does not exist; run `make firmware`")


def main() -> int:
    """Runs a board until SIGINT or SIGTERM, and says which port to open; returns 1 after an error, which it prints."""
    parser = argparse.ArgumentParser(prog="python -m firmware_bridge.emulator.board", description="Emulate a board.")
    parser.add_argument("--servos", metavar="ROBOT", help="with the servos of this robot: aloha or so101")
    robot = parser.parse_args().servos
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        board = EmulatedBoard()
        if robot is not None:
            board = EmulatedBoard(image_with_servos(robot), servos=servos_at_home(load_robot(robot)))
        with board:
            sys.stdout.write(f"{board.port}\n")
            sys.stdout.flush()
            while True:
                board.check_alive()
                time.sleep(0.2)
    except KeyboardInterrupt:
        return 0
    except Pi0EdgeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
