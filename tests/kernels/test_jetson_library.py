"""The Jetson's kernel library, built here for aarch64 by the compilers of CUDA 12.6 and 13, loaded and called by qemu.

Everything but the driver and the GPU is real: the file that a robot gets, its device code of both CUDA versions, the C
library of aarch64. A stand-in for the driver takes the device code and writes down what would be launched.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from emulated_kernels import CUDA, emulated_library
from jetson_library import Called, Driver, ScriptedLibrary, builder, call_on_jetson, jetson_library
from kernel_resources import recorded_launches
from pi0_kernel_calls import calls

from pi0_edge.kernels.library import FUNCTIONS, VERSION, GemmArguments

JETPACK_6, JETPACK_7_ORIN, JETPACK_7_THOR = Driver(12060, 87), Driver(13020, 87), Driver(13000, 110)
TOOL = builder()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jetson")


@pytest.fixture(scope="module")
def library(folder: Path) -> Path:
    return jetson_library(folder)


@pytest.fixture(scope="module")
def script() -> list[str]:
    """Every call of π0's sizes."""
    written = ScriptedLibrary()
    for _, call in calls():
        call(written)
    return written.script


def test_every_kernel_has_the_name_by_which_the_build_finds_it():
    """A kernel of another name would be in no device code: its launch would fail on the board only."""
    text = "".join(path.read_text() for path in [*CUDA.glob("*.cu"), *CUDA.glob("*.cuh")])
    names = re.findall(r"__global__ void(?: __launch_bounds__\((?:[^()]|\([^()]*\))*\))?\s+(\w+)\(", text)
    assert len(names) == text.count("__global__ void"), "a kernel is declared in another way"
    assert names
    assert [name for name in names if not name.endswith("_kernel")] == []


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
@pytest.mark.parametrize("source", sorted(CUDA.glob("*.cu")), ids=lambda path: path.stem)
def test_the_host_half_compiles_without_a_gpu_compiler(source: Path):
    """What a kernel uses for the first time has to be added to driver_api.h."""
    argv = ["g++", "-x", "c++", "-fsyntax-only", *TOOL._HOST_FLAGS, str(source)]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]


def test_names_of_kernels_lose_their_parameters_and_nothing_else():
    without = TOOL._without_parameters
    assert without("pi0::rope_kernel<__half>(__half const*, int)") == "pi0::rope_kernel<__half>"
    assert without("pi0::k_kernel<pi0::T<1, 2> >(pi0::T<1, 2>)") == "pi0::k_kernel<pi0::T<1, 2> >"
    assert without("pi0::patches_kernel(unsigned char const*)") == "pi0::patches_kernel"


def test_the_oldest_compiler_comes_first():
    """driver_api.cpp refuses a driver that is older than the first image."""
    versions = [toolkit.version for toolkit in TOOL.TOOLKITS]
    assert versions == sorted(versions)
    assert [toolkit.name for toolkit in TOOL.TOOLKITS] == ["12.6", "13.0"]


def test_a_missing_cross_compiler_is_named(tmp_path: Path):
    with pytest.raises(
        TOOL.KernelBuildError, match=r"sparc64-linux-gnu-g\+\+ is not installed: apt-get install g\+\+-"
    ):
        TOOL.build("sparc64", tmp_path / TOOL.NAME, tmp_path)


@pytest.fixture
def downloads(monkeypatch) -> list[Path]:
    """Where a stand-in for pip was asked to put the packages of the first toolkit; it gives a small wheel."""
    asked, first = [], TOOL.TOOLKITS[0]

    def pip(argv: list[str], text: str | None = None) -> str:
        folder = Path(argv[argv.index("--dest") + 1])
        asked.append(folder)
        folder.mkdir(parents=True, exist_ok=True)
        time.sleep(0.2)
        with zipfile.ZipFile(folder / "all.whl", "w") as archive:
            archive.writestr(first.library, b"compiler")
            archive.writestr(f"{first.headers}/cuda_bf16.h", b"whole")
        return ""

    monkeypatch.setattr(TOOL, "_run", pip)
    return asked


def test_a_toolkit_is_fetched_by_one_process_while_the_others_wait(downloads: list[Path], tmp_path: Path):
    with ThreadPoolExecutor(3) as workers:
        found = set(workers.map(lambda _: TOOL.fetched(TOOL.TOOLKITS[0], tmp_path), range(3)))
    assert found == {tmp_path / "12.6"}
    assert len(downloads) == 1
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "12.6", "wheels"}


def test_a_half_unpacked_toolkit_is_unpacked_again(downloads: list[Path], tmp_path: Path):
    first = TOOL.TOOLKITS[0]
    for name in (first.library, f"{first.headers}/cuda_bf16.h"):
        (tmp_path / "12.6" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "12.6" / name).write_bytes(b"half")
    folder = TOOL.fetched(first, tmp_path)
    assert (folder / first.library).read_bytes() == b"compiler"
    assert (folder / first.headers / "cuda_bf16.h").read_bytes() == b"whole"
    assert len(downloads) == 1


@pytest.mark.parametrize("changed", ["_STDINT", "_CUDA_RUNTIME", "_DEVICE_FLAGS"])
def test_device_code_is_made_again_when_what_made_it_changes(monkeypatch, changed: str, tmp_path: Path):
    monkeypatch.setattr(TOOL, "_loaded", lambda library: None)
    monkeypatch.setattr(TOOL, "_compiled", lambda nvrtc, source, options, kernels: " ".join(options).encode())
    arguments = (TOOL.TOOLKITS[0], 87, CUDA / "rope.cu", {}, tmp_path / "12.6", tmp_path)
    before = TOOL.device_code(*arguments)
    assert TOOL.device_code(*arguments) == before
    monkeypatch.setattr(TOOL, changed, "// other" if isinstance(getattr(TOOL, changed), str) else ("-other",))
    after = TOOL.device_code(*arguments)
    assert after != before
    assert list(tmp_path.glob("*.cubin")) == [after]


def test_headers_are_not_written_while_compilers_read_them(monkeypatch, tmp_path: Path):
    """Once before the jobs: a job that wrote them would empty them for a moment under another job."""
    TOOL.write_headers(tmp_path)
    texts = {path.name: path.read_text() for path in (tmp_path / "headers").iterdir()}
    assert texts == {"stdint.h": TOOL._STDINT, "cuda_runtime.h": TOOL._CUDA_RUNTIME}
    written = []
    monkeypatch.setattr(TOOL, "_loaded", lambda library: None)
    monkeypatch.setattr(TOOL, "_compiled", lambda *arguments: b"code")
    monkeypatch.setattr(Path, "write_text", lambda path, text: written.append(path))
    TOOL.device_code(TOOL.TOOLKITS[0], 87, CUDA / "rope.cu", {}, tmp_path / "12.6", tmp_path)
    assert not written


@pytest.mark.slow
def test_the_file_needs_only_libc_and_exports_its_functions_and_kernels(library: Path):
    listed = subprocess.run(["readelf", "-dVW", "--dyn-syms", str(library)], capture_output=True, text=True, check=True)
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", listed.stdout))
    assert needed <= {"libc.so.6", "libm.so.6", "ld-linux-aarch64.so.1", "libdl.so.2"}
    exported = set(re.findall(r"(?:FUNC|OBJECT)\s+(?:GLOBAL|WEAK)\s+DEFAULT\s+\d+ (\S+)", listed.stdout))
    assert {f"pi0_{name}" for name in FUNCTIONS} <= exported
    kernels = {name for name in exported if name.startswith("_ZN3pi0")}
    assert {launch.kernel for _, launch in recorded_launches(emulated_library())} <= kernels
    assert max(map(int, re.findall(r"GLIBC_2\.(\d+)", listed.stdout))) <= 34, "JetPack 6 has glibc 2.35"


@pytest.mark.slow
def test_without_a_driver_every_call_says_so(library: Path, script: list[str], folder: Path):
    called = call_on_jetson(library, script, None, folder)
    assert called.version == VERSION
    assert not called.launches
    assert {error for error, _ in called.answers} == {35}
    assert all("there is no CUDA driver on this machine" in said for _, said in called.answers)


@pytest.mark.slow
@pytest.mark.parametrize("driver", [JETPACK_6, JETPACK_7_ORIN, JETPACK_7_THOR], ids=str)
def test_every_kernel_of_pi0_is_launched_as_the_emulated_gpu_launches_it(
    driver: Driver, library: Path, script: list[str], folder: Path
):
    called = call_on_jetson(library, script, driver, folder)
    expected = [launch for _, launch in recorded_launches(emulated_library())]
    if driver.gpu == 87:  # no FP8 tensor cores
        expected = [launch for launch in expected if "Fp8ENS" not in launch.kernel]
    assert called.launches == expected
    refused = {said for error, said in called.answers if error}
    assert {error for error, _ in called.answers} <= {0, 801}
    assert bool(refused) == (driver.gpu == 87)


@pytest.mark.slow
def test_arguments_arrive_as_they_were_given(library: Path, script: list[str], folder: Path):
    """Of a kernel with single arguments and of one that takes a struct: pointers stand in it byte by byte."""
    norm = next(line for line in script if line.startswith("pi0_norm "))
    product = next(line for line in script if line.startswith("pi0_gemm_int8 "))
    called = call_on_jetson(library, [norm, product], JETPACK_6, folder)
    x, _, _, _, _, out, *_ = (int(word[1:]) for word in norm.split()[1:11])
    values = [int.from_bytes(argument, "little") for argument in called.arguments[0]]
    assert x in values and out in values
    given = GemmArguments.from_buffer_copy(bytes.fromhex(product.split()[1][1:]))
    struct = b"".join(called.arguments[1])
    for name in ("a", "weight", "a_scale", "column_scale", "out"):
        assert int(getattr(given, name)).to_bytes(8, "little") in struct, name


def ready(called: Called) -> tuple[int, str]:
    return called.answers[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("driver", "error", "said"),
    [
        (
            Driver(12020, 87),
            35,
            r"is of CUDA 12\.2; this library has device code of CUDA 12\.6 and 13\.0.* JetPack 6\.1",
        ),
        (Driver(11040, 87), 35, r"is of CUDA 11\.4"),
        (Driver(12060, 72), 209, r"no device code for compute capability 7\.2 with a driver of CUDA 12\.6"),
        (Driver(12060, 110), 209, r"no device code for compute capability 11\.0 with a driver of CUDA 12\.6.*Thor"),
        (Driver(13000, 90), 209, r"9\.0 .*make kernels builds one for other GPUs"),
        (Driver(12060, 87, count=0), 100, r"no CUDA-capable device"),
    ],
    ids=str,
)
def test_a_driver_or_gpu_that_cannot_be_used_is_refused_in_words(
    driver: Driver, error: int, said: str, library: Path, script: list[str], folder: Path
):
    called = call_on_jetson(library, script[:2], driver, folder)
    assert not called.launches
    for answer in called.answers:
        assert answer[0] == error
        assert re.search(said, answer[1]), answer[1]


@pytest.mark.slow
def test_a_driver_that_speaks_of_a_newer_cuda_takes_the_newest_code(library: Path, folder: Path, script: list[str]):
    called = call_on_jetson(library, script, Driver(14000, 110), folder)
    assert ready(called) == (0, "no error")
    assert called.launches


@pytest.mark.slow
def test_device_code_of_one_gpu_does_not_pass_for_another(
    library: Path, folder: Path, script: list[str], tmp_path: Path
):
    """The stand-in refuses code of another GPU: what the library would have to be told of."""
    wrong = tmp_path / TOOL.NAME
    code = library.read_bytes()
    table = (12060).to_bytes(8, "little") + (87).to_bytes(8, "little")
    assert table in code
    wrong.write_bytes(code.replace(table, (12060).to_bytes(8, "little") + (110).to_bytes(8, "little")))
    assert ready(call_on_jetson(wrong, script[:1], Driver(12060, 110), folder))[0] == 209


@pytest.mark.slow
def test_a_kernel_without_device_code_is_named(library: Path, folder: Path, script: list[str], tmp_path: Path):
    """The other kernels of the same library go on."""
    rope = next(launch.kernel for _, launch in recorded_launches(emulated_library()) if "rope_kernel" in launch.kernel)
    damaged = tmp_path / TOOL.NAME
    name = f".text.{rope}".encode()
    assert name in library.read_bytes()
    damaged.write_bytes(library.read_bytes().replace(name, name[:-1] + b"?"))
    called = call_on_jetson(damaged, script, JETPACK_6, folder)
    wrong = [said for error, said in called.answers if error == 500]
    assert wrong and all(said == f"this library has no device code of {rope}: build it again" for said in wrong)
    assert called.launches and all(launch.kernel != rope for launch in called.launches)
