"""Which torch runs on a release of JetPack."""

from __future__ import annotations

from dataclasses import dataclass

_TABLE = 'see "torch of each JetPack" in docs/flash/sdk.md'


@dataclass(frozen=True)
class JetPack:
    """One release, as far as the CUDA engine is concerned.

    Attributes:
        name: Its name.
        first_l4t: Of the first L4T that belongs to it, major and minor number; later ones of this major do, too, up to
            the next that is listed.
        torch: Versions of torch that run on it, for people.
        install: What to do to get one.
    """

    name: str
    first_l4t: tuple[int, int]
    torch: str
    install: str


JETPACKS = (
    JetPack("JetPack 5", (35, 0), "none for this engine", "flash JetPack 6.2 or newer"),
    JetPack("JetPack 6.0", (36, 0), "none for this engine", "flash JetPack 6.2 or newer"),
    JetPack(
        "JetPack 6.1 or 6.2",
        (36, 4),
        "2.8 to 2.10 of the Jetson community's index for jp6/cu126, or NVIDIA's own 2.5",
        f"install torch 2.8 for jp6/cu126 for the system's Python, {_TABLE}",
    ),
    JetPack("JetPack 7.0 or 7.1", (38, 0), "2.9 or newer for CUDA 13 (Thor)", "pip install 'torch>=2.11'"),
    JetPack(
        "JetPack 7.2",
        (39, 0),
        "2.9 or newer for CUDA 13 on Thor; on Orin one that has code for sm_87, such as the community's 2.10",
        f"on Thor: pip install 'torch>=2.11'; on Orin: install a torch that was built for sm_87, {_TABLE}",
    ),
)
"""November 2026, the oldest first. Reports of others; nobody has run pi0-edge on any of them."""


def find_jetpack(l4t_release: str) -> JetPack | None:
    """The release of a Jetson; None where it is none that is known.

    Args:
        l4t_release: Of NVIDIA's Jetson Linux, such as `36.4.3`; empty on another computer.
    """
    numbers = [int(number) for number in l4t_release.split(".") if number.isdecimal()]
    known = [jetpack for jetpack in JETPACKS if [jetpack.first_l4t[0]] == numbers[:1]]
    fits = [jetpack for jetpack in known if list(jetpack.first_l4t) <= [*numbers, 0][:2]]
    return fits[-1] if fits else None
