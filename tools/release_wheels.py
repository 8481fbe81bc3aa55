"""`make release`: the wheels of pi0-edge that robots install, one for each processor, into dist/.

    python tools/release_wheels.py --processor aarch64 --processor x86_64 --output dist

`pip wheel .` compiles for the machine and the interpreter that it runs on. Here the C library of `pi0_edge.quant` is
compiled for the robot's processor; it is loaded with ctypes and belongs to no interpreter, and the tag says so:
py3-none-manylinux_2_28_aarch64. The CUDA kernels go along where `make kernels-jetson` has built them, for JetPack 6 and
7 in one file. The same sources give the same bytes, and thereby the same lock and the same environment on a robot.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from pi0_edge.deploy.sdk.targets import KERNELS

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "pi0_edge", "quant", "protos", "firmware_bridge")
LIBRARY_SOURCES = "quant/native"
LIBRARY = "pi0_edge/quant/_native.so"

PROCESSORS = {"aarch64": "AArch64", "x86_64": "Advanced Micro Devices X86-64"}
"""The processors of robots, and what readelf calls them."""

OLDEST_GLIBC = (2, 28)
SYSTEM_LIBRARIES = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1"}
SYSTEM_LIBRARIES |= {"libstdc++.so.6", "ld-linux-aarch64.so.1", "ld-linux-x86-64.so.2"}
"""What every manylinux system has. OpenMP is not among them: see `compile_library`."""


class WheelError(Exception):
    """A wheel cannot be built; the message says what to do."""


def build_wheels(processors: list[str], output: Path, root: Path = ROOT) -> list[Path]:
    """Builds a wheel for each processor.

    Args:
        processors: Keys of `PROCESSORS`.
        output: Folder that they go to; it is made.
        root: The checkout.

    Raises:
        WheelError: If a compiler is missing, something does not compile, or a library needs what robots may not have.
    """
    compilers = [find_compiler(processor) for processor in processors]
    output.mkdir(parents=True, exist_ok=True)
    built = []
    with tempfile.TemporaryDirectory() as work:
        plain = read_wheel(plain_wheel(root, Path(work)))
        for processor, compiler in zip(processors, compilers, strict=True):
            library = compile_library(root, compiler, Path(work) / processor)
            libraries = {LIBRARY: library}
            kernels = KERNELS.format(processor=processor)
            if (root / kernels).is_file():
                libraries[kernels] = root / kernels
            glibc = max(OLDEST_GLIBC, *(check_library(path, processor) for path in libraries.values()))
            tag = f"py3-none-manylinux_{glibc[0]}_{glibc[1]}_{processor}"
            content = {name: data for name, data in plain.items() if not name.endswith(".so")}
            content |= {name: path.read_bytes() for name, path in libraries.items()}
            built.append(write_wheel(content, tag, output))
    return built


def find_compiler(processor: str) -> str:
    """The C compiler for a processor.

    Raises:
        WheelError: If there is none.
    """
    names = [f"{processor}-linux-gnu-gcc", *(["gcc"] if processor == platform.machine() else [])]
    for name in names:
        if shutil.which(name):
            return name
    package = f"gcc-{processor.replace('_', '-')}-linux-gnu"
    libc = {"aarch64": "libc6-dev-arm64-cross", "x86_64": "libc6-dev-amd64-cross"}[processor]
    raise WheelError(
        f"{names[0]} is not installed, and the wheel for {processor} needs it: apt-get install {package} {libc}; "
        f"or build only for this machine: make release PROCESSORS={platform.machine()}"
    )


def plain_wheel(root: Path, work: Path) -> Path:
    """The wheel as pip builds it, from a copy of what belongs in it, so that nothing is left in the checkout."""
    unwanted = shutil.ignore_patterns("build", "node_modules", "__pycache__", "*.so", "*.egg-info")
    for name in SOURCES:
        source = root / name
        if source.is_dir():
            # Links stay links: `pi0_edge/quant` is one, and its package must be built once.
            shutil.copytree(source, work / "source" / name, symlinks=True, ignore=unwanted)
        else:
            (work / "source").mkdir(exist_ok=True)
            shutil.copy(source, work / "source" / name)
    # Where this environment has what the build needs, nothing is fetched for it.
    options = ["--no-build-isolation"] if all(map(_is_installed, listed(root, "requires"))) else []
    argv = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        *options,
        "--wheel-dir",
        str(work),
        "./source",
    ]
    _run(argv, work, {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    return next(work.glob("pi0_edge-*.whl"))


def compile_library(root: Path, compiler: str, work: Path) -> Path:
    """The C library of `pi0_edge.quant`, compiled with the options of pyproject.toml.

    It is not linked to an OpenMP library: robots may have none, torch brings its own, and the names are found in the
    one that torch has loaded (`pi0_edge.quant.native`). A second one would start threads of its own.
    """
    shutil.copytree(root / LIBRARY_SOURCES, work)
    names = [Path(source).name for source in listed(root, "sources")]
    _run([compiler, *listed(root, "extra-compile-args"), "-fPIC", "-c", *names], work)
    library = work / Path(LIBRARY).name
    link = ["-shared", "-Wl,--as-needed", "-Wl,-z,noexecstack", "-s", f"-Wl,-soname,{library.name}"]
    objects = [str(Path(name).with_suffix(".o")) for name in names]
    _run([compiler, *link, *objects, "-lm", "-o", library.name], work)
    return library


def listed(root: Path, name: str) -> list[str]:
    """A list of pyproject.toml on one line; it is JSON too.

    Raises:
        WheelError: If it is not there.
    """
    found = re.search(rf"^{re.escape(name)} = (\[.*\])$", (root / "pyproject.toml").read_text(), re.MULTILINE)
    if found is None:
        raise WheelError(f"pyproject.toml has no list {name} on one line, which is expected there")
    return json.loads(found[1])


def check_library(path: Path, processor: str) -> tuple[int, int]:
    """The version of glibc that a library needs.

    Raises:
        WheelError: If it is of another processor, or needs a library that a robot may not have.
    """
    text = _run(["readelf", "--wide", "--file-header", "--dynamic", "--version-info", str(path)], path.parent)
    machine = re.search(r"Machine:\s+(.+)", text)
    if machine is None or machine[1].strip() != PROCESSORS[processor]:
        raise WheelError(f"{path} is for {machine and machine[1]}, expected {PROCESSORS[processor]}: build it again")
    if unknown := set(re.findall(r"\(NEEDED\)\s+Shared library: \[(.+?)\]", text)) - SYSTEM_LIBRARIES:
        raise WheelError(f"{path} needs {', '.join(sorted(unknown))}, which a robot may not have: link it in")
    versions = re.findall(r"Name: GLIBC_(\d+)\.(\d+)", text)
    return max(((int(major), int(minor)) for major, minor in versions), default=(2, 0))


def read_wheel(path: Path) -> dict[str, bytes]:
    """The files of a wheel."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def write_wheel(content: Mapping[str, bytes], tag: str, output: Path) -> Path:
    """Writes a wheel with another tag and a new list of its files; the same content gives the same bytes."""
    info = next(name.split("/")[0] for name in content if name.endswith(".dist-info/WHEEL"))
    lines = [line for line in content[f"{info}/WHEEL"].decode().splitlines() if line and not line.startswith("Tag:")]
    files = {name: data for name, data in content.items() if name != f"{info}/RECORD"}
    files[f"{info}/WHEEL"] = "\n".join([*lines, f"Tag: {tag}", ""]).encode()
    record = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in sorted(files.items())]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    path = output / f"{info.removesuffix('.dist-info')}-{tag}.whl"
    temporary = path.with_name(f".{path.name}.new")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files, key=lambda name: (name.startswith(info), name)):
            entry = zipfile.ZipInfo(name)  # of 1980: the time of the build would change the bytes
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if name.endswith(".so") else 0o644) << 16
            archive.writestr(entry, files[name])
    temporary.replace(path)
    return path


def _is_installed(text: str) -> bool:
    requirement = Requirement(text)
    try:
        return requirement.specifier.contains(metadata.version(requirement.name))
    except metadata.PackageNotFoundError:
        return False


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _run(argv: list[str], folder: Path, environment: Mapping[str, str] | None = None) -> str:
    ran = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise WheelError(f"{' '.join(argv)} failed:\n{ran.stdout}{ran.stderr}")
    return ran.stdout


def main() -> int:
    """Builds the wheels and says what they are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processor", action="append", choices=list(PROCESSORS), required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    try:
        built = build_wheels(given.processor, given.output)
    except WheelError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for path in built:
        with zipfile.ZipFile(path) as archive:
            kernels = any(name.endswith(Path(KERNELS).name) for name in archive.namelist())
        said = "with the CUDA kernels" if kernels else "without CUDA kernels (make kernels-jetson builds a Jetson's)"
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {said}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
