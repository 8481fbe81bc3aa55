"""The two root file systems of a Jetson, A and B, as its UEFI firmware counts them.

An update of the operating system goes to the slot that does not run. Each start of a slot that nobody confirms costs a
try; at none left, the firmware marks the slot unbootable and starts the other one from then on, without a word. Since
L4T 35.2.1 no command of NVIDIA's gives the tries back. A release of a policy never touches these slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GUID = "781e084c-a330-417c-b678-38e696380cb9"
"""Of NVIDIA's variables."""

UNBOOTABLE = 0xFF
MOST_TRIES = 3
_ATTRIBUTES = 4
"""Bytes before the value in each file of efivarfs."""


@dataclass(frozen=True)
class BootSlot:
    """One root file system.

    Attributes:
        name: A or B.
        status: 0 where it can be started, 0xFF where the firmware gave it up; None where it is not said.
        tries: Unconfirmed starts that are left; None where they are not counted.
    """

    name: str
    status: int | None
    tries: int | None

    def __str__(self) -> str:
        states = {0: "can be started", None: "says nothing", UNBOOTABLE: "is marked unbootable (0xFF)"}
        state = states.get(self.status, f"has the status {self.status}")
        return f"{self.name} {state}" + ("" if self.tries is None else f", {self.tries} tries left")

    @property
    def starts(self) -> bool:
        """Whether the firmware would start it."""
        return self.status in (0, None) and self.tries != 0


@dataclass(frozen=True)
class BootSlots:
    """Both, and which one runs.

    Attributes:
        current: Name of the one that runs; empty where it is not said.
        slots: A and B.
    """

    current: str
    slots: tuple[BootSlot, ...]


def read_boot_slots(root: Path = Path("/")) -> BootSlots | None:
    """The slots; None on a computer that has no two of them, as Jetsons come from the shop.

    Args:
        root: Of the file system.
    """
    slots = tuple(
        BootSlot(name, _value(root, f"RootfsStatusSlot{name}"), _value(root, f"RootfsRetryCount{name}"))
        for name in ("A", "B")
    )
    if all(slot.status is None for slot in slots):
        return None
    current = _value(root, "BootChainFwCurrent")
    return BootSlots("AB"[current] if current in (0, 1) else "", slots)


def repair_commands(slots: BootSlots, root: Path = Path("/")) -> Iterator[str]:
    """A command of a shell for each variable that keeps a slot from starting.

    Args:
        slots: As they were read.
        root: Of the file system that they were read from.
    """
    for slot in slots.slots:
        if slot.status not in (0, None):
            yield _write_command(root, f"RootfsStatusSlot{slot.name}", 0)
        if slot.tries == 0:
            tries = _value(root, "RootfsRetryCountMax") or MOST_TRIES
            yield _write_command(root, f"RootfsRetryCount{slot.name}", tries)


def _write_command(root: Path, name: str, value: int) -> str:
    """The file is protected against changes by mistake, and the firmware takes it in one write or not at all."""
    file = variable(Path("/"), name)
    content = variable(root, name).read_bytes()
    new = content[:_ATTRIBUTES] + value.to_bytes(len(content) - _ATTRIBUTES, "little")
    octal = "".join(f"\\{byte:03o}" for byte in new)
    return f"sudo chattr -i {file} && printf '{octal}' | sudo tee {file} >/dev/null"


def variable(root: Path, name: str) -> Path:
    """The file of one of NVIDIA's variables."""
    return root / "sys/firmware/efi/efivars" / f"{name}-{GUID}"


def _value(root: Path, name: str) -> int | None:
    try:
        content = variable(root, name).read_bytes()
    except OSError:
        return None
    return int.from_bytes(content[_ATTRIBUTES:], "little") if len(content) > _ATTRIBUTES else None
