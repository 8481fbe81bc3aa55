"""Which CUDA a release of JetPack has, and which torch runs on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class JetPack:
    """One release, as far as the CUDA engine is concerned.

    Attributes:
        name: Its name.
        first_l4t: Of the first L4T that belongs to it: major and minor number.
        cuda: Of its driver; empty where none of our device code is for it.
        torch: Versions of torch that run on it, for people.
        install: Where to get one.
    """

    name: str
    first_l4t: tuple[int, int]
    cuda: str
    torch: str
    install: str


JETPACKS = (
    JetPack("JetPack 5", (35, 0), "", "none for this engine", "flash JetPack 6.2 or newer"),
    JetPack("JetPack 6.0", (36, 0), "", "none for this engine", "sudo apt-get dist-upgrade to JetPack 6.2"),
    JetPack(
        "JetPack 6.1 or 6.2",
        (36, 4),
        "12.6",
        "2.8 to 2.10 of the Jetson community's index for jp6/cu126, or NVIDIA's own 2.5",
        "pip install torch==2.8.0 from the Jetson community's index for jp6/cu126",
    ),
    JetPack(
        "JetPack 7.0 or 7.1",
        (38, 0),
        "13.0",
        "2.9 or newer for CUDA 13 (Thor)",
        "pip install 'torch>=2.9' from an index with builds for CUDA 13 on aarch64",
    ),
    JetPack(
        "JetPack 7.2",
        (39, 0),
        "13.2",
        "2.9 or newer for CUDA 13 on Thor; on Orin one that has code for sm_87, such as the community's 2.10",
        "pip install torch==2.10.* from an index whose builds have code for this GPU",
    ),
)
"""November 2026, the oldest first. Reports of others; nobody has run pi0-edge on any of them."""


def find_jetpack(l4t_release: str) -> JetPack | None:
    """The release of a Jetson; None where it is none that is known.

    Args:
        l4t_release: Of NVIDIA's Jetson Linux, such as `36.4.3`; empty on another computer.
    """
    numbers = [int(number) for number in l4t_release.split(".") if number.isdecimal()]
    known = [jetpack for jetpack in JETPACKS if list(jetpack.first_l4t) <= numbers[:2]]
    return known[-1] if known else None
