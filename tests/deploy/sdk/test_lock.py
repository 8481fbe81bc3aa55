"""The list of an SDK folder is read as it was written, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sdk_folders import small_sdk, write_wheel

from pi0_edge.deploy.sdk.lock import Lock, LockedWheel, find_wheels, read_lock, wheel_identity
from pi0_edge.errors import DeployError

HASH = "ab" * 32
NAMES = st.from_regex(r"[a-z0-9]+(-[a-z0-9]+){0,2}", fullmatch=True)
VERSIONS = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}(\+[a-z]{1,3})?", fullmatch=True)
HASHES = st.binary(min_size=32, max_size=32).map(bytes.hex)
HEADER = '# pi0-edge SDK: {"target": "t", "python": "3.11", "processor": "aarch64", "glibc": [2, 28], "system_torch": '
HEADER += "false}\n"
NEEDED = f"pi0-edge==0.1.0 --hash=sha256:{HASH}\npip==26.3 --hash=sha256:{HASH}\n"


@given(
    wheels=st.dictionaries(NAMES, st.tuples(VERSIONS, HASHES), max_size=8),
    python=st.integers(0, 99),
    system_torch=st.booleans(),
)
def test_what_was_written_is_read(tmp_path_factory, wheels: dict, python: int, system_torch: bool) -> None:
    wheels = {**wheels, "pi0-edge": ("0.1.0", HASH), "pip": ("26.3", HASH)}
    entries = tuple(LockedWheel(name, *wheels[name]) for name in sorted(wheels))
    lock = Lock("linux-aarch64-cpu", f"3.{python}", "aarch64", (2, 28), system_torch, entries)
    path = tmp_path_factory.mktemp("lock") / "requirements.txt"
    path.write_bytes(lock.to_bytes())
    assert read_lock(path) == lock
    assert lock.version == "0.1.0"


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://example.org/simple",
        "-e ../source",
        "--pre",
        "-r other.txt",
        f"git+ssh://example.org/x --hash=sha256:{HASH}",
        f"x @ file:///x.whl --hash=sha256:{HASH}",
        f"numpy>=2 --hash=sha256:{HASH}",
        "numpy==2.0",
        f"numpy==2.0 --hash=sha256:{HASH} --hash=sha256:{HASH}",
        f"numpy==2.0 --hash=md5:{HASH}",
        f"numpy==2.0; python_version>'3' --hash=sha256:{HASH}",
        f"numpy==2.0 --hash=sha256:{HASH} --config-settings=x=y",
        f"numpy==2.0 --hash=sha256:{HASH} \\",
        f"../numpy==2.0 --hash=sha256:{HASH}",
        "# only a comment",
        "",
    ],
)
def test_other_lines_are_refused(tmp_path: Path, line: str) -> None:
    """Some of them would make pip fetch or run something that nobody has signed."""
    path = tmp_path / "requirements.txt"
    path.write_text(HEADER + NEEDED)
    read_lock(path)
    path.write_text(f"{HEADER}{NEEDED}{line}\n")
    with pytest.raises(DeployError, match="is no list of an SDK"):
        read_lock(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (NEEDED, "its first line does not say what it is for"),
        ("", "is no list of an SDK"),
        ("# pi0-edge SDK: {}\n" + NEEDED, "'glibc'"),
        ("# pi0-edge SDK: {\n" + NEEDED, "is no list of an SDK"),
        (HEADER.replace('"3.11"', '"3.11/../../x"') + NEEDED, "expected such as 3.11"),
        (HEADER + NEEDED + NEEDED, "names a package twice"),
        (HEADER + NEEDED.splitlines()[0] + "\n", "names no pip"),
        (HEADER + NEEDED.splitlines()[1] + "\n", "names no pi0-edge"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text(content)
    with pytest.raises(DeployError, match=said):
        read_lock(path)


def test_a_list_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="is no list of an SDK"):
        read_lock(tmp_path / "requirements.txt")


def test_of_two_wheels_of_a_version_the_named_one_is_found(tmp_path: Path) -> None:
    sdk = small_sdk(tmp_path)
    lock = read_lock(sdk / "requirements.txt")
    before = find_wheels(lock, sdk)
    other = write_wheel(sdk, "part-0", tag="py2.py3-none-any")
    assert find_wheels(lock, sdk) == before and other not in before.values()


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl", ("torch", "2.13.0+cpu")),
        ("mcap_protobuf_support-0.5.3-py3-none-any.whl", ("mcap-protobuf-support", "0.5.3")),
        ("PyYAML-6.0.3-1-cp311-cp311-manylinux2014_aarch64.whl", ("pyyaml", "6.0.3")),
        ("notes.whl", None),
    ],
)
def test_the_name_of_a_wheel_tells_package_and_version(name: str, identity: tuple[str, str] | None) -> None:
    assert wheel_identity(Path(name)) == identity
