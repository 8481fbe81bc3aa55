"""Writing a bundle and reading it back: same content, same bytes, all or nothing, mapped weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_builders import FAILED, PASSED, REPORT, bundle_inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_builders import CONFIG, PROMPT, observation
from safetensors import safe_open

from pi0_edge.bundle import open_bundle, write_bundle
from pi0_edge.bundle.manifest import GateRecord
from pi0_edge.bundle.shards import ALIGNMENT, PAGE, map_shards, write_shards
from pi0_edge.errors import BundleError

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return bundle_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def folder(inputs, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "bundle"
    write_bundle(path, **inputs, calibration={"kind": "npz", "frames": 64})
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_open_bundle_reads_what_write_bundle_wrote(folder, inputs):
    bundle = open_bundle(folder)
    assert bundle.config == CONFIG
    assert bundle.scheme == inputs["scheme"]
    assert bundle.manifest.gate == GateRecord.from_dict(PASSED)
    assert bundle.manifest.calibration == {"kind": "npz", "frames": 64}
    assert bundle.manifest.source_sha256 == inputs["source_sha256"]
    assert bundle.manifest.tools["torch"] == torch.__version__
    assert (folder / "gate_report.html").read_text() == REPORT
    state = dict(bundle.tensors())
    assert state.keys() == inputs["state"].keys()
    for name, tensor in inputs["state"].items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


def test_the_processor_comes_from_the_bundle_alone(inputs, tmp_path):
    source = tmp_path / "inputs"
    made = bundle_inputs(source)
    write_bundle(tmp_path / "bundle", **made)
    shutil.rmtree(source)
    processor = open_bundle(tmp_path / "bundle").processor()
    assert processor.robot.name == "aloha_sim"
    assert processor.robot.default_prompt == PROMPT
    seen = processor.to_model_inputs(observation())
    assert seen.state.shape == (1, CONFIG.action_dim)
    assert processor.tokenizer.source.parent == tmp_path / "bundle"
    np.testing.assert_array_equal(processor.normalization.state.stats["mean"], np.linspace(-0.5, 0.5, 14))


def test_two_builds_are_byte_identical(inputs, tmp_path, folder):
    turned = dict(reversed(inputs["state"].items()))
    described = inputs["processing"]
    reordered = replace(described, robot=dict(reversed(described.robot.items())))
    again = {**inputs, "state": turned, "processing": reordered}
    for place in ("one", "another/deeper"):
        write_bundle(tmp_path / place, **again, calibration={"frames": 64, "kind": "npz"})
        assert contents(tmp_path / place) == contents(folder)


def test_files_are_readable_and_not_executable(folder):
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o111 == 0
    assert folder.stat().st_mode & 0o700 == 0o700


class Lazy(Mapping[str, torch.Tensor]):
    """Tensors that are made when they are asked for; fails at one of them."""

    def __init__(self, fail_at: str = "") -> None:
        self.names = [f"layer.{i:02d}" for i in range(8)]
        self.fail_at = fail_at
        self.asked: list[str] = []

    def __getitem__(self, name: str) -> torch.Tensor:
        if name == self.fail_at:
            raise OSError(28, "No space left on device")
        self.asked.append(name)
        return torch.full((40,), int(name[-2:]), dtype=torch.int8)

    def __iter__(self) -> Iterator[str]:
        return reversed(self.names)

    def __len__(self) -> int:
        return len(self.names)


def test_tensors_are_asked_for_once_in_the_order_of_names(inputs, tmp_path):
    lazy = Lazy()
    write_bundle(tmp_path / "bundle", **{**inputs, "state": lazy})
    assert lazy.asked == sorted(lazy.names)


@pytest.mark.parametrize("fail_at", ["layer.00", "layer.07"])
@pytest.mark.parametrize("there_before", [False, True])
def test_a_bundle_appears_whole_or_not_at_all(inputs, tmp_path, fail_at, there_before):
    folder = tmp_path / "bundle"
    if there_before:
        write_bundle(folder, **inputs)
    before = contents(folder) if there_before else None
    with pytest.raises(BundleError, match="cannot be written: No space left"):
        write_bundle(folder, **{**inputs, "state": Lazy(fail_at)}, replace=True)
    assert [path.name for path in tmp_path.iterdir()] == (["bundle"] if there_before else [])
    assert before is None or contents(folder) == before


def test_an_interrupted_build_leaves_nothing(inputs, tmp_path):
    class Interrupted(Lazy):
        def __getitem__(self, name: str) -> torch.Tensor:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bundle(tmp_path / "bundle", **{**inputs, "state": Interrupted()})
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_replaced_only_on_request(inputs, tmp_path):
    folder = tmp_path / "bundle"
    write_bundle(folder, **inputs)
    with pytest.raises(BundleError, match="holds a bundle already"):
        write_bundle(folder, **{**inputs, "gate": FAILED})
    assert open_bundle(folder).manifest.gate == GateRecord.from_dict(PASSED)
    write_bundle(folder, **{**inputs, "gate": FAILED}, replace=True)
    assert open_bundle(folder).manifest.gate == GateRecord.from_dict(FAILED)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_anything_but_a_bundle_is_never_replaced(inputs, tmp_path, kind):
    place = tmp_path / "place"
    if kind == "folder":
        (place / "precious").mkdir(parents=True)
    elif kind == "file":
        place.write_text("precious")
    else:
        write_bundle(tmp_path / "real", **inputs)
        place.symlink_to(tmp_path / "real")
    with pytest.raises(BundleError, match="is no bundle, so it is never replaced"):
        write_bundle(place, **inputs, replace=True)
    assert place.exists()


def test_a_folder_created_during_the_build_is_not_replaced(inputs, tmp_path):
    class Meanwhile(Lazy):
        def __getitem__(self, name: str) -> torch.Tensor:
            (tmp_path / "bundle" / "precious").mkdir(parents=True, exist_ok=True)
            return super().__getitem__(name)

    with pytest.raises(BundleError, match="exists and is no bundle"):
        write_bundle(tmp_path / "bundle", **{**inputs, "state": Meanwhile()})
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", "precious"]


IMPOSSIBLE = {
    "NaN in the gate": ({"gate": {**PASSED, "cosine": float("nan")}}, "without NaN"),
    "an object in the calibration": ({"calibration": {"path": object()}}, "JSON values"),
    "a gate without verdict": ({"gate": {"cosine": 1.0}}, "the gate has no verdict"),
    "a verdict that is a word": ({"gate": {"verdict": {"passed": "yes", "reasons": []}}}, "has no verdict"),
    "a dtype that is not stored": ({"state": {"a": torch.zeros(2, dtype=torch.complex64)}}, "complex64"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_could_not_be_loaded_is_not_written(inputs, tmp_path, case):
    change, message = IMPOSSIBLE[case]
    with pytest.raises(BundleError, match=message):
        write_bundle(tmp_path / "bundle", **{**inputs, **change})
    assert list(tmp_path.iterdir()) == []


def test_a_report_with_a_script_is_refused(inputs, tmp_path):
    report = tmp_path / "report.html"
    report.write_text("<SCRIPT>alert(1)</SCRIPT>")
    with pytest.raises(BundleError, match="nothing in a bundle is executable"):
        write_bundle(tmp_path / "bundle", **{**inputs, "report_html": report})


def test_a_tokenizer_of_another_kind_is_refused(inputs, tmp_path):
    processing = replace(inputs["processing"], tokenizer=tmp_path / "tokenizer.pkl")
    with pytest.raises(BundleError, match=r"tokenizer\.pkl is not"):
        write_bundle(tmp_path / "bundle", **{**inputs, "processing": processing})


DTYPES = [torch.int8, torch.uint8, torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn, torch.int64]
SHAPES = st.lists(st.integers(0, 9), max_size=3)
STATES = st.dictionaries(
    st.text("abc.", min_size=1, max_size=6), st.tuples(st.sampled_from(DTYPES), SHAPES), max_size=8
)


def raw_bytes(tensor: torch.Tensor) -> bytes:
    return b"" if not tensor.numel() else tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


@settings(max_examples=40, deadline=None)
@given(drawn=STATES, limit=st.sampled_from([1, 100, 10**6]))
def test_any_tensors_survive_bit_by_bit_and_lie_aligned(drawn, limit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    state = {}
    for name, (dtype, shape) in drawn.items():
        raw = rng.bytes(int(np.prod(shape)) * dtype.itemsize)
        state[name] = (
            torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape) if raw else torch.zeros(shape, dtype=dtype)
        )
    records = write_shards(folder, state, limit)
    assert {path.name for path in folder.iterdir()} == records.keys()
    mapped = dict(map_shards(sorted(folder.iterdir())))
    assert mapped.keys() == state.keys()
    for name, tensor in state.items():
        found = mapped[name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert raw_bytes(found) == raw_bytes(tensor)
        assert found.data_ptr() % found.element_size() == 0
        if tensor.nbytes % ALIGNMENT == 0 and tensor.nbytes:
            assert found.data_ptr() % ALIGNMENT == 0
    for name, record in records.items():
        assert (folder / name).stat().st_size == record.size
        header = int.from_bytes((folder / name).read_bytes()[:8], "little") + 8
        assert header % PAGE == 0
        with safe_open(folder / name, framework="np") as shard:  # another reader of the format
            assert sum(state[key].nbytes for key in shard.keys()) == record.size - header  # noqa: SIM118


def test_a_shard_holds_no_more_than_its_limit_but_for_one_tensor(tmp_path):
    state = {f"{i}": torch.zeros(size, dtype=torch.int8) for i, size in enumerate((40, 40, 300, 40, 64))}
    state |= {"0.scale": torch.zeros(1), "4.scale": torch.zeros(1)}
    write_shards(tmp_path, state, shard_bytes=100)
    held = []
    for path in sorted(tmp_path.iterdir()):
        with safe_open(path, framework="pt") as shard:
            held.append(sorted(shard.keys()))
    assert held == [["0.scale", "4.scale"], ["0", "1"], ["2"], ["3"], ["4"]]


def mappings(path: Path) -> list[range]:
    """Where a file is mapped into this process."""
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    return [range(*(int(end, 16) for end in line.split()[0].split("-"))) for line in lines]


def test_values_that_were_packed_leave_memory_while_their_scales_stay(tmp_path):
    """What `restore_engine` does layer by layer: the scale is there before the values, which are dropped at once."""
    layers = {f"{layer}.values": torch.ones(256, dtype=torch.int8) for layer in range(4)}
    scales = {f"{layer}.scale": torch.ones(16) for layer in range(4)}
    records = write_shards(tmp_path, layers | scales, shard_bytes=512)
    shards = [tmp_path / name for name in sorted(records)]
    stay, names = {}, []
    for name, tensor in map_shards(shards):
        names.append(name)
        if name.endswith(".scale"):
            stay[name] = tensor
        else:
            assert f"{name[0]}.scale" in stay
        del tensor
    assert names == [*scales, *layers]
    assert [bool(mappings(shard)) for shard in shards] == [True, False, False]


def test_weights_are_mapped_not_copied(folder):
    state = dict(open_bundle(folder).tensors())
    places = [place for shard in folder.glob("weights-*") for place in mappings(shard)]
    assert len(places) == 2
    for tensor in state.values():
        assert any(tensor.data_ptr() in place for place in places)


def test_writing_into_a_mapped_tensor_does_not_change_the_bundle(folder):
    state = dict(open_bundle(folder).tensors())
    before = (folder / "weights-f32-00000.safetensors").read_bytes()
    for tensor in state.values():
        tensor.zero_()
    assert (folder / "weights-f32-00000.safetensors").read_bytes() == before
    open_bundle(folder)


def test_the_manifest_reads_like_a_description(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == "pi0-edge-bundle"
    assert manifest["format_version"] == 1
    assert manifest["model"]["variant"] == "pi0"
    assert manifest["robot"]["name"] == "aloha_sim"
    assert manifest["gate"]["verdict"]["passed"] is True
    assert str(folder) not in (folder / "manifest.json").read_text()
