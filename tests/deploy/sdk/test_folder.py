"""An SDK folder has what the robot needs, chosen with the robot's conditions; pip really runs, without a network."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from cli_runner import run
from packaging.tags import Tag, parse_tag
from sdk_folders import THIS_PROCESSOR, own_wheel, write_wheel

from pi0_edge.deploy.installer.environments import install_environment
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.sdk.folder import SdkFolder, has_kernels, make_sdk_folder, needed_glibc
from pi0_edge.deploy.sdk.lock import REQUIREMENTS, find_wheels, read_lock
from pi0_edge.deploy.sdk.resolution import resolve
from pi0_edge.deploy.sdk.targets import KERNELS, TARGETS, find_target
from pi0_edge.errors import DeployError
from pi0_edge.kernels import library

pytestmark = pytest.mark.system

ARM = TARGETS["linux-aarch64-cpu"]
X86 = TARGETS["linux-x86_64-cpu"]
ARM_WHEEL = "cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64"
X86_WHEEL = "cp311-cp311-manylinux2014_x86_64"


class Index:
    """A folder that pip takes packages from, instead of its index."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": "/dev/null"}.items():
            monkeypatch.setenv(f"PIP_{name}", value)
        self.add("pip", "26.0")

    def add(self, name: str, version: str = "1.0", *requires: str, tag: str = "py3-none-any") -> Path:
        return write_wheel(self.folder, name, version, requires, tag=tag)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    return Index(tmp_path / "index", monkeypatch)


@pytest.fixture
def own(tmp_path: Path):
    def made(*requires: str, version: str = "0.1.0") -> Path:
        return own_wheel(tmp_path / "dist", version, requires)

    return made


def chosen(target, wheel: Path, python: str = "3.11", **kept: str) -> dict[str, str]:
    return {package.name: package.version for package in resolve(target, python, wheel, kept)}


def test_conditions_are_those_of_the_robot(index: Index, own) -> None:
    for name in ("nvidia-cublas", "arm-only", "old-python", "darwin"):
        index.add(name)
    wheel = own(
        "nvidia-cublas; platform_machine == 'x86_64' and extra == 'policy'",
        "arm-only; platform_machine == 'aarch64'",
        "old-python; python_version < '3.12'",
        "darwin; sys_platform == 'darwin'",
    )
    assert set(chosen(ARM, wheel)) == {"pi0-edge", "pip", "arm-only", "old-python"}
    assert set(chosen(ARM, wheel, "3.12")) == {"pi0-edge", "pip", "arm-only"}
    assert set(chosen(X86, wheel)) == {"pi0-edge", "pip", "nvidia-cublas", "old-python"}


def test_wheels_are_those_of_the_robot(index: Index, own) -> None:
    index.add("fast", "2.0", tag=X86_WHEEL)
    index.add("fast", "1.5", tag=ARM_WHEEL)
    index.add("fast", "1.0")
    wheel = own("fast")
    assert chosen(ARM, wheel)["fast"] == "1.5"
    assert chosen(ARM, wheel, "3.12")["fast"] == "1.0"
    assert chosen(X86, wheel)["fast"] == "2.0"


def test_every_name_of_an_older_c_library_is_taken(index: Index, own) -> None:
    """pip takes the platform tags that it is given and no older one."""
    tags = ["manylinux_2_17_aarch64", "manylinux2014_aarch64", "manylinux_2_27_aarch64", "manylinux_2_36_aarch64"]
    for number, tag in enumerate(tags):
        index.add(f"package-{number}", tag=f"cp39-abi3-{tag}")
    index.add("too-new", "2.0", tag="cp39-abi3-manylinux_2_37_aarch64")
    index.add("too-new", "1.0")
    found = chosen(ARM, own(*[f"package-{number}" for number in range(4)], "too-new"))
    assert len(found) == 7 and found["too-new"] == "1.0"


def test_extras_bring_their_packages(index: Index, own) -> None:
    index.add("crypto", "1.0", "cffi; extra == 'fast'", "slow; extra == 'slow'")
    index.add("again", "1.0", "crypto[slow]")
    for name in ("cffi", "slow", "unwanted"):
        index.add(name)
    wheel = own("crypto[fast]>=1; extra == 'deploy'", "again; extra == 'policy'", "unwanted; extra == 'sim'")
    assert set(chosen(ARM, wheel)) == {"pi0-edge", "pip", "crypto", "again", "cffi", "slow"}


def test_a_version_that_a_later_package_excludes_is_chosen_again(index: Index, own) -> None:
    index.add("numbers", "2.0", "only-with-two")
    index.add("numbers", "1.0")
    index.add("only-with-two")
    index.add("picture", "1.0", "drawing")
    index.add("drawing", "1.0", "numbers<2")
    assert chosen(ARM, own("numbers", "picture")) == {
        "pi0-edge": "0.1.0",
        "pip": "26.0",
        "numbers": "1.0",
        "picture": "1.0",
        "drawing": "1.0",
    }


def test_what_does_not_fit_is_told_with_who_asks_for_it(index: Index, own) -> None:
    index.add("picture", "1.0", "numbers<1")
    index.add("numbers", "2.0")
    with pytest.raises(DeployError, match=r"no wheel fits linux-aarch64-cpu .*numbers is needed by picture 1\.0"):
        chosen(ARM, own("picture"))


def test_a_conflict_over_torch_is_told(index: Index, own) -> None:
    index.add("torch", "2.10.0")
    index.add("network", "1.0", "torch>=2.12")
    with pytest.raises(DeployError, match="torch is needed by network"):
        chosen(ARM, own("torch>=2.4; extra == 'policy'", "network"))


def test_torch_is_the_one_that_the_target_can_use(index: Index, own) -> None:
    index.add("torch", "2.13.0", "nvidia-nccl")
    index.add("torch", "2.10.0", "nvidia-nccl; platform_machine == 'x86_64'")
    index.add("nvidia-nccl")
    wheel = own("torch>=2.4; extra == 'policy'")
    assert chosen(ARM, wheel)["torch"] == "2.10.0"
    assert chosen(TARGETS["jetpack7"], wheel, "3.12").keys() >= {"torch", "nvidia-nccl"}
    assert "torch" not in chosen(TARGETS["jetpack6-orin"], wheel, "3.10")
    with pytest.raises(DeployError, match="is for CUDA, and linux-x86_64-cpu has none"):
        chosen(X86, wheel)
    index.add("torch", "2.13.0+cpu")
    assert chosen(X86, wheel)["torch"] == "2.13.0+cpu"
    with pytest.raises(DeployError, match="is for the CPU, expected one for CUDA"):
        chosen(TARGETS["jetpack7"], wheel, "3.12")


def test_numpy_fits_the_torch_of_jetpack_6(index: Index, own) -> None:
    index.add("numpy", "1.26.4")
    index.add("numpy", "2.2.6")
    assert chosen(TARGETS["jetpack6-orin"], own("numpy>=1.24"), "3.10")["numpy"] == "1.26.4"


def make(index: Index, wheel: Path, output: Path, **options) -> SdkFolder:
    return make_sdk_folder(options.pop("target", ARM), output, wheel, **options)


def test_the_list_names_every_wheel_by_its_hash(index: Index, own, tmp_path: Path) -> None:
    index.add("fast", "1.0", "slow", tag=ARM_WHEEL)
    index.add("slow")
    made = make(index, own("fast"), tmp_path / "sdk")
    lock = read_lock(tmp_path / "sdk" / REQUIREMENTS)
    assert lock == made.lock
    assert (lock.target, lock.python, lock.processor) == ("linux-aarch64-cpu", "3.11", "aarch64")
    assert lock.glibc == (2, 27)
    found = find_wheels(lock, tmp_path / "sdk")
    assert set(found.values()) == set((tmp_path / "sdk").glob("*.whl"))
    assert made.sizes == {name: path.stat().st_size for name, path in found.items()}
    assert sorted(path.name for path in (tmp_path / "sdk").iterdir() if path.suffix != ".whl") == [REQUIREMENTS]


@pytest.mark.parametrize("name", ["jetpack6-orin", "jetpack7", "linux-aarch64-cpu"])
def test_a_wheel_without_kernels_is_told_of_where_there_is_a_gpu(index: Index, own, tmp_path: Path, name: str) -> None:
    target = dataclasses.replace(TARGETS[name], torch=None)
    wheel = own()
    said: list[str] = []
    make(index, wheel, tmp_path / "without", target=target, on_reason=said.append)
    assert any("no CUDA kernels" in line and "make kernels-jetson" in line for line in said) is target.cuda
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("pi0_edge/kernels/build/aarch64/libpi0_kernels.so", b"")
    said.clear()
    make(index, wheel, tmp_path / "with", target=target, on_reason=said.append)
    assert not any("CUDA kernels" in line for line in said)


def test_a_wheel_has_the_kernels_where_the_robot_looks_for_them() -> None:
    where = library.BUILD / "{processor}" / library.NAME
    assert where.relative_to(Path(__file__).parents[3]).as_posix() == KERNELS


def test_what_is_no_wheel_has_no_kernels(tmp_path: Path) -> None:
    (tmp_path / "pi0_edge-0.1.0-py3-none-any.whl").write_bytes(b"PK")
    with pytest.raises(DeployError, match=r"is no wheel: .*make release builds one"):
        has_kernels(tmp_path / "pi0_edge-0.1.0-py3-none-any.whl", TARGETS["jetpack7"])


def test_an_interrupted_folder_goes_on(index: Index, own, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        index.add(name)
    wheel, output = own("one", "two", "three"), tmp_path / "sdk"
    first = make(index, wheel, output)
    assert set(first.fetched) == {"one", "two", "three", "pip", "pi0-edge"}
    assert make(index, wheel, output).fetched == ()
    listed = (output / REQUIREMENTS).read_bytes()
    (output / REQUIREMENTS).unlink()
    next(output.glob("one-*")).unlink()
    torn = next(output.glob("two-*"))
    torn.write_bytes(torn.read_bytes()[:100])
    (output / ".partial").mkdir()
    (output / ".partial" / "three-1.0-py3-none-any.whl").write_bytes(b"half")
    again = make(index, wheel, output)
    assert set(again.fetched) == {"one", "two"} and not (output / ".partial").exists()
    assert (output / REQUIREMENTS).read_bytes() == listed
    find_wheels(read_lock(output / REQUIREMENTS), output)


def test_two_commands_do_not_fill_one_folder(index: Index, own, tmp_path: Path) -> None:
    (tmp_path / "sdk").mkdir()
    handle = os.open(tmp_path / "sdk", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(DeployError, match="another command fills"):
        make(index, own(), tmp_path / "sdk")
    os.close(handle)
    make(index, own(), tmp_path / "sdk")


def test_versions_of_the_list_before_are_kept_while_they_fit(index: Index, own, tmp_path: Path) -> None:
    index.add("one", "1.0")
    index.add("two", "1.0")
    make(index, own("one", "two"), tmp_path / "sdk")
    index.add("one", "1.1")
    index.add("two", "2.0")
    reasons: list[str] = []
    made = make(index, own("one", "two>=2", version="0.1.1"), tmp_path / "sdk", on_reason=reasons.append)
    versions = {wheel.name: wheel.version for wheel in made.lock.wheels}
    assert versions == {"one": "1.0", "two": "2.0", "pi0-edge": "0.1.1", "pip": "26.0"}
    assert set(made.fetched) == {"two", "pi0-edge"}
    assert {path.name.split("-")[0] for path in (tmp_path / "sdk").glob("*.whl")} == {"one", "two", "pi0_edge", "pip"}
    assert [reason for reason in reasons if reason.startswith("two-1.0") and reason.endswith("removed")]


def test_a_rebuilt_wheel_of_the_same_version_takes_the_place(index: Index, own, tmp_path: Path) -> None:
    before = make(index, own(), tmp_path / "sdk").lock
    index.add("one")
    after = make(index, own("one"), tmp_path / "sdk").lock
    assert after.wheel("pi0-edge").sha256 != before.wheel("pi0-edge").sha256
    find_wheels(after, tmp_path / "sdk")


def test_a_folder_of_another_target_is_refused(index: Index, own, tmp_path: Path) -> None:
    make(index, own(), tmp_path / "sdk")
    for options in ({"target": X86}, {"python": "3.12"}):
        with pytest.raises(DeployError, match=r"is for linux-aarch64-cpu with Python 3\.11, not for"):
            make(index, own(), tmp_path / "sdk", **options)


def test_a_python_that_the_target_lacks_is_refused(index: Index, own, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=r"has Python 3\.11 or 3\.12, not 3\.8"):
        make(index, own(), tmp_path / "sdk", python="3.8")


def test_what_is_no_wheel_of_pi0_edge_is_refused(index: Index, tmp_path: Path) -> None:
    for name in ("other-1.0-py3-none-any.whl", "pi0_edge-0.1.0-py3-none-any.whl", "pi0_edge.whl"):
        with pytest.raises(DeployError, match="is no wheel of pi0-edge; `make release`"):
            make(index, tmp_path / name, tmp_path / "sdk")
    damaged = tmp_path / "pi0_edge-0.1.0-py3-none-any.whl"
    damaged.write_bytes(b"PK")
    with pytest.raises(DeployError, match="is damaged"):
        make(index, damaged, tmp_path / "sdk")


def test_the_command_makes_a_folder_and_says_what_it_is(index: Index, own, tmp_path: Path) -> None:
    index.add("one")
    arguments = ("release", "sdk", "--target", "linux-aarch64-cpu", "--output", tmp_path / "sdk", "--wheel", own("one"))
    ran = run(*arguments, "--json")
    assert ran.code == 0, ran.err
    assert ran.result["packages"] == {"one": "1.0", "pi0-edge": "0.1.0", "pip": "26.0"}
    assert ran.result["bytes"] == sum(path.stat().st_size for path in (tmp_path / "sdk").glob("*.whl"))
    assert run(*arguments, "--json").result["fetched"] == []
    ran = run("release", "sdk", "--target", "toaster", "--output", tmp_path / "x")
    assert ran.code == 2 and all(name in ran.err for name in TARGETS)


@pytest.mark.parametrize("target", TARGETS.values(), ids=str)
def test_the_targets_are_possible(target) -> None:
    assert find_target(target.name) is target
    assert target.python(None) == target.pythons[0]
    assert len(set(target.platforms)) == len(target.platforms)
    assert f"manylinux_2_17_{target.processor}" in target.platforms
    for platform in target.platforms:
        assert parse_tag(f"py3-none-{platform}") == {Tag("py3", "none", platform)}


@pytest.mark.parametrize(
    ("name", "glibc"),
    [
        (f"x-1-{ARM_WHEEL}.whl", (2, 27)),
        ("x-1-cp311-cp311-manylinux2014_aarch64.manylinux_2_17_aarch64.whl", (2, 17)),
        ("x-1-cp311-cp311-manylinux1_x86_64.manylinux_2_28_x86_64.manylinux_2_5_x86_64.whl", (2, 5)),
        ("x-1-py3-none-any.whl", (2, 0)),
    ],
)
def test_tags_tell_the_c_library_that_is_needed(name: str, glibc: tuple[int, int]) -> None:
    assert needed_glibc(Path(name)) == glibc


@pytest.mark.slow
@pytest.mark.skipif(THIS_PROCESSOR != "x86_64", reason="its wheels are for x86-64")
def test_the_real_packages_install_and_run_a_chunk(tmp_path: Path) -> None:
    """All of them, 0.3 GB, from the index of pip's own settings."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    target = dataclasses.replace(X86, pythons=(version,))
    root = Path(__file__).parents[3]
    tool = [
        sys.executable,
        root / "tools" / "release_wheels.py",
        "--processor",
        "x86_64",
        "--output",
        tmp_path / "dist",
    ]
    subprocess.run(tool, check=True)
    made = make_sdk_folder(target, tmp_path / "sdk", next((tmp_path / "dist").glob("*.whl")))
    assert made.lock.glibc <= target.glibc  # what wheels of today ask for, the board has
    environment = install_environment(Layout(tmp_path / "robot"), tmp_path / "sdk")
    code = "import tuf, mcap, av, serial, grpc; from pi0_edge.quant.native import is_compiled as c; print(c())"
    argv = [environment / "bin/python", "-c", code]
    assert subprocess.run(argv, capture_output=True, text=True, check=True, cwd=tmp_path).stdout == "True\n"
    argv = [environment / "bin/pi0-edge", "doctor", "--json"]
    told = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path).stdout
    assert json.loads(told.splitlines()[-1])
