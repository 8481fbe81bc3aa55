"""The folder beside a bundle that makes it a release: metadata, firmware image and SDK, replaced as a whole."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from pi0_edge.deploy.release import FIRMWARE_TARGET, METADATA_FOLDER, SDK_FOLDER, SDK_TARGET
from pi0_edge.errors import DeployError
from pi0_edge.synced_files import exchange_synced, sync_folder, write_synced

_BLOCK = 2**20
_LOCKED = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def sdk_files(folder: Path) -> list[Path]:
    """The files of an SDK folder: requirements.txt, and the wheels whose SHA-256 it lists.

    Raises:
        DeployError: If there is anything else, or a wheel is not listed or listed and not there.
    """
    requirements = folder / Path(SDK_TARGET).name
    if not requirements.is_file():
        raise DeployError(f"{folder} has no {requirements.name}; expected a locked list and the wheels that it names")
    listed = set(_LOCKED.findall(requirements.read_text(errors="replace")))
    wheels = sorted(path for path in folder.iterdir() if path != requirements)
    for path in wheels:
        if path.suffix != ".whl" or not path.is_file() or path.is_symlink():
            raise DeployError(f"{path} is no wheel; an SDK folder holds {requirements.name} and wheels, nothing else")
    found = {sha256(path): path for path in wheels}
    if surplus := found.keys() - listed:
        raise DeployError(
            f"{found[min(surplus)]} is not listed in {requirements} with its SHA-256; lock the list again"
        )
    if missing := listed - found.keys():
        raise DeployError(f"{requirements} lists the SHA-256 {min(missing)}, and no wheel in {folder} has it")
    return [requirements, *wheels]


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def publish(place: Path, metadata: Mapping[str, bytes], firmware: Path | None, sdk: list[Path]) -> None:
    """Makes the folder of a release, or replaces it in one step; interrupted, it is the old one or the new one.

    Args:
        place: Of the folder.
        metadata: Files of the metadata, by name.
        firmware: Image for the microcontroller.
        sdk: Files of the SDK folder.

    Raises:
        DeployError: If there is no place on the disk, or something else in the way.
    """
    new = place.with_name(f".{place.name}.new")
    try:
        shutil.rmtree(new, ignore_errors=True)
        _fill(new, metadata, firmware, sdk)
        if os.path.lexists(place):
            _check_replaceable(place)
            if not exchange_synced(new, place):
                shutil.rmtree(place)  # FAT and the like: until the next line there is none, and signing again makes it
                new.rename(place)
        else:
            new.rename(place)
        sync_folder(place.parent)
        shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        raise DeployError(f"{place} cannot be written ({error.strerror}: {error.filename}); sign again") from error


def _fill(folder: Path, metadata: Mapping[str, bytes], firmware: Path | None, sdk: list[Path]) -> None:
    (folder / METADATA_FOLDER).mkdir(parents=True)
    for name, content in metadata.items():
        write_synced(folder / METADATA_FOLDER / name, content)
    sync_folder(folder / METADATA_FOLDER)
    if firmware is not None:
        _copy_synced(firmware, folder / FIRMWARE_TARGET)
    if sdk:
        (folder / SDK_FOLDER).mkdir()
        for path in sdk:
            _copy_synced(path, folder / SDK_FOLDER / path.name)
        sync_folder(folder / SDK_FOLDER)
    sync_folder(folder)


def _check_replaceable(place: Path) -> None:
    if not (place / METADATA_FOLDER).is_dir() or place.is_symlink():
        raise DeployError(f"{place} is there and is no release; move it away")


def _copy_synced(source: Path, place: Path) -> None:
    with source.open("rb") as reader, place.open("wb") as writer:
        shutil.copyfileobj(reader, writer, _BLOCK)
        writer.flush()
        os.fsync(writer.fileno())
