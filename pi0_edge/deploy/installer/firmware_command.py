"""The program that writes a firmware image to a board: which one, and running it with a time limit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from pi0_edge.deploy.launcher.settings import RobotSettings
from pi0_edge.errors import DeployError

IMAGE = "{image}"
COMMAND_LIMIT_S = 120.0
_UF2, _ELF = b"UF2\n", b"\x7fELF"
_FLASH_OF_STM32 = "0x08000000"
_SAID = 400  # characters at the end of what a program printed


def firmware_command(settings: RobotSettings, board: str, image: Path) -> list[str]:
    """The command that writes an image to a board.

    Args:
        settings: Of the robot; its `firmware_command` goes before the usual one of the board.
        board: That the image is for.
        image: The file.

    Raises:
        DeployError: If there is no such command, its program is not installed, or the image is of another form.
    """
    command = list(settings.firmware_command) or _usual_command(board, _form(image))
    if not any(IMAGE in word for word in command):
        raise DeployError(
            f"firmware_command in robot.json is {command}, without {IMAGE}; write {IMAGE} where the file belongs"
        )
    if shutil.which(command[0]) is None:
        raise DeployError(f"{command[0]}, which writes the firmware of this robot, is not installed; install it")
    return [word.replace(IMAGE, str(image)) for word in command]


def run_firmware_command(command: list[str], limit_s: float = COMMAND_LIMIT_S) -> None:
    """Runs it, and ends it with all that it started where it takes too long.

    Raises:
        DeployError: If it fails or takes longer than `limit_s` seconds.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise DeployError(f"{command[0]} cannot be run: {error}") from error
    try:
        said, _ = process.communicate(timeout=limit_s)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise DeployError(f"{command[0]} did not end within {limit_s:.0f} s and was ended") from error
        raise
    if process.returncode:
        raise DeployError(
            f"{command[0]} failed with {process.returncode}: {said.strip()[-_SAID:] or 'it said nothing'}"
        )


def _form(image: Path) -> str:
    try:
        with image.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise DeployError(f"the firmware image {image} cannot be read: {error}") from error
    return {_UF2: "uf2", _ELF: "elf"}.get(head, "bin")


def _usual_command(board: str, form: str) -> list[str]:
    if board == "rp2040":
        return ["picotool", "load", "-v", "-x", IMAGE, "-t", form]
    if board == "stm32f4":
        if form != "bin":
            raise DeployError(
                f"the image for stm32f4 is of the form {form}, and st-flash writes plain images; sign the release with "
                "build/stm32f4/firmware.bin, or name another firmware_command in robot.json"
            )
        return ["st-flash", "--reset", "write", IMAGE, _FLASH_OF_STM32]
    raise DeployError(
        f"no program is known that writes the firmware of board {board or 'without a name'!r}; name one as "
        f"firmware_command in robot.json, with {IMAGE} where the file belongs"
    )
