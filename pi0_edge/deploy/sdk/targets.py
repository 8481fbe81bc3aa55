"""The kinds of computer that an SDK folder can be made for."""

from __future__ import annotations

from dataclasses import dataclass

from pi0_edge.errors import DeployError

ROBOT_EXTRAS = ("policy", "bridge", "cameras", "recording", "signing", "deploy")
"""The extras of pi0-edge that a robot gets."""

KERNELS = "pi0_edge/kernels/build/{processor}/libpi0_kernels.so"
"""Where a wheel of pi0-edge has the CUDA kernels for a processor: where `pi0_edge.kernels.library` looks for them."""


@dataclass(frozen=True)
class Target:
    """A kind of computer.

    Attributes:
        name: How it is asked for.
        is_for: What it is, for people.
        processor: As `uname -m` says it.
        pythons: Versions of its system's Python, such as "3.11"; the first is taken where none is asked for.
        glibc: Version of its system's C library; wheels may be as new as that.
        torch: Versions of torch that it can use, such as "==2.10.*"; None where its system brings torch, which the
            environment then sees.
        cuda: Whether its torch is one for CUDA.
        constraints: What else its versions must satisfy, such as "numpy<2".
    """

    name: str
    is_for: str
    processor: str
    pythons: tuple[str, ...]
    glibc: tuple[int, int]
    torch: str | None
    cuda: bool
    constraints: tuple[str, ...] = ()

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platform tags of wheels that it can load; one of them does not stand for the older ones."""
        major, newest = self.glibc
        oldest, *names = _OLD_TAGS[self.processor]
        numbered = [f"manylinux_{major}_{minor}" for minor in range(newest, int(oldest) - 1, -1)]
        return tuple(f"{tag}_{self.processor}" for tag in (*numbered, *names, "linux"))

    def python(self, asked: str | None) -> str:
        """The version of Python to make a folder for.

        Raises:
            DeployError: If its system has no such Python.
        """
        if asked is not None and asked not in self.pythons:
            raise DeployError(f"{self.name} has Python {' or '.join(self.pythons)}, not {asked}; choose one of these")
        return asked or self.pythons[0]


_OLD_TAGS = {"aarch64": ("17", "manylinux2014"), "x86_64": ("5", "manylinux2014", "manylinux2010", "manylinux1")}
"""The oldest minor version of glibc in tags, and the names that tags had before they had such numbers."""

TARGETS = {
    target.name: target
    for target in (
        Target(
            name="jetpack6-orin",
            is_for="Jetson Orin with JetPack 6.1 or 6.2",
            processor="aarch64",
            pythons=("3.10",),
            glibc=(2, 35),
            torch=None,  # the registry's builds for aarch64 are for the CPU or for CUDA 13; JetPack 6 has CUDA 12.6
            cuda=True,
            constraints=("numpy<2",),  # NVIDIA's own torch for JetPack 6 was built for numpy 1
        ),
        Target(
            name="jetpack7",
            is_for="Jetson Thor with JetPack 7",
            processor="aarch64",
            pythons=("3.12",),
            glibc=(2, 39),
            torch="==2.13.*",
            cuda=True,
        ),
        Target(
            name="linux-aarch64-cpu",
            is_for="any 64-bit Arm board, without CUDA",
            processor="aarch64",
            pythons=("3.11", "3.12"),
            glibc=(2, 36),
            torch="==2.10.*",  # the last whose build for aarch64 is for the CPU; 2.11 brings gigabytes of CUDA 13
            cuda=False,
        ),
        Target(
            name="linux-x86_64-cpu",
            is_for="x86-64 computers and containers, without CUDA",
            processor="x86_64",
            pythons=("3.11", "3.12"),
            glibc=(2, 36),
            torch="==2.13.*",
            cuda=False,
        ),
    )
}
"""The targets by name."""


def find_target(name: str) -> Target:
    """A target by name.

    Raises:
        DeployError: If there is none of that name.
    """
    if name not in TARGETS:
        raise DeployError(f"there is no target {name!r}; expected one of {', '.join(TARGETS)}")
    return TARGETS[name]
