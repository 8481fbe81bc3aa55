"""What earlier versions sent is read with the same meaning, and a change that would break that is refused in words."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf import descriptor_pool, json_format, message_factory

from firmware_bridge.link.framing import FrameDecoder
from pi0_edge.protos import bridge_pb2, policy_pb2, recording_pb2, serial_link
from pi0_edge.protos.codegen import generate
from pi0_edge.protos.codegen.compatibility import LOCK_FILE, broken_promises, interface_of, lock_text, read_lock

ROOT = Path(__file__).resolve().parents[2]
RECORDED = sorted((ROOT / "tests" / "data" / "protocol").iterdir())
PRESENT = {
    kind.full_name
    for file in (policy_pb2, bridge_pb2, recording_pb2)
    for kind in file.DESCRIPTOR.message_types_by_name.values()
}


def recorder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_protocol", ROOT / "tools" / "record_protocol.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def present(name: str) -> Any:
    return message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))


@pytest.mark.parametrize("version", RECORDED, ids=lambda path: path.name)
def test_messages_of_a_version_mean_what_they_meant(version: Path) -> None:
    recorded = json.loads((version / "messages.json").read_text())
    assert len({one["message"] for one in recorded}) >= 18
    for one in recorded:
        message = present(one["message"]).FromString(bytes.fromhex(one["bytes"]))
        assert json_format.MessageToDict(message, preserving_proto_field_name=True) == one["means"], one["message"]
        assert len(message.SerializeToString()) == len(one["bytes"]) // 2, f"{one['message']} lost a field"


@pytest.mark.parametrize(
    "version", [path for path in RECORDED if (path / "frames.json").exists()], ids=lambda p: p.name
)
def test_frames_of_the_serial_link_mean_what_they_meant(version: Path) -> None:
    """Both ends refuse another schema; what may not happen is another schema under the same version."""
    recorded = json.loads((version / "frames.json").read_text())
    if recorded["version"] != serial_link.VERSION:
        pytest.skip(f"version {recorded['version']}, now {serial_link.VERSION}: the two refuse each other")
    assert recorded["schema_hash"] == serial_link.SCHEMA_HASH, "raise `version` in protos/serial_link.yaml"
    assert {one["message"] for one in recorded["frames"]} == {kind.__name__ for kind in serial_link.MESSAGES.values()}
    for one in recorded["frames"]:
        [frame] = FrameDecoder().feed(b"\0" + bytes.fromhex(one["frame"]))
        assert frame.seq == one["sequence"]
        assert recorder().frame_meaning(serial_link.MESSAGES[frame.type].unpack(frame.payload)) == one["means"]


def test_every_field_of_every_message_was_recorded_by_some_version() -> None:
    filled: dict[str, set[str]] = {}
    for version in RECORDED:
        for one in json.loads((version / "messages.json").read_text()):
            filled.setdefault(one["message"], set()).update(one["means"])
    assert filled.keys() == PRESENT
    for name, fields in filled.items():
        known = {field.name for field in present(name).DESCRIPTOR.fields}
        assert known == fields, f"{name} has fields that were never recorded; tools/record_protocol.py VERSION"


def test_the_lock_is_the_present_interface() -> None:
    made = interface_of(generate.compiled().file)
    assert broken_promises(read_lock(ROOT), made) == []
    assert (ROOT / LOCK_FILE).read_text() == lock_text(made), "run: python -m pi0_edge.protos.codegen.generate"


PROTO = """syntax = "proto3";
package trial.v1;
message Image {
  reserved 9, 12 to 14;
  reserved "depth";
  string camera = 1;
  oneof pixels {
    bytes rgb = 4;
    bytes jpeg = 5;
  }
  repeated float state = 6;
}
enum Gate {
  GATE_NONE = 0;
  GATE_PASSED = 1;
}
service Policy {
  rpc Infer(Image) returns (Image);
  rpc Watch(Image) returns (stream Image);
}
"""


def interface(folder: Path, text: str) -> Any:
    (folder / "trial.proto").write_text(text)
    return interface_of(generate.compiled(folder, ("trial.proto",)).file)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("string camera = 1;", "", r"field trial.v1.Image.camera = 1 is gone and not reserved.*`reserved 1;`"),
        ("string camera = 1;", "reserved 1;", r"camera = 1 is gone and not reserved"),
        ("string camera = 1;", "string camera = 2;", r"camera had the number 1 and has 2; give it 1 again"),
        ("string camera = 1;", "string lens = 1;", r"number 1 of trial.v1.Image was string camera and is string lens"),
        ("string camera = 1;", "bytes camera = 1;", r"camera = 1 was string camera and is bytes camera"),
        ("string camera = 1;", "repeated string camera = 1;", r"is repeated string camera"),
        ("string camera = 1;", "optional string camera = 1;", r"is optional string camera"),
        ("string camera = 1;", "uint32 height = 1; string camera = 2;", r"number 1 of .* is uint32 height"),
        ("repeated float state", "repeated double state", r"was repeated float state and is repeated double state"),
        ("    bytes jpeg = 5;\n  }", "  }\n  bytes jpeg = 5;", r"was bytes jpeg in oneof pixels and is bytes jpeg"),
        ("reserved 9, 12 to 14;", "reserved 12 to 14;", r"number 9 of trial.v1.Image was reserved and is not"),
        ("reserved 9, 12 to 14;", "reserved 9, 12, 14; bool x = 13;", r"number 13 of trial.v1.Image was reserved"),
        ('reserved "depth";', "float depth = 7;", r"name depth of trial.v1.Image was reserved"),
        ("GATE_PASSED = 1;", "", r"value trial.v1.Gate.GATE_PASSED = 1 is gone and not reserved"),
        ("GATE_PASSED = 1;", "GATE_PASSED = 2;", r"GATE_PASSED had the number 1 and has 2"),
        ("GATE_PASSED = 1;", "GATE_FAILED = 1;", r"number 1 of trial.v1.Gate was GATE_PASSED and is GATE_FAILED"),
        ("rpc Infer(Image) returns (Image);", "", r"method trial.v1.Policy/Infer is gone"),
        ("returns (stream Image)", "returns (Image)", r"Watch was \(trial.v1.Image -> stream trial.v1.Image\)"),
        ("package trial.v1;", "package trial.v2;", r"trial.v1.Image is gone.*package pi0_edge.v2"),
        ("message Image", "message Picture {}\nmessage Image", None),
        ("string camera = 1;", 'reserved 1; reserved "camera";', None),
        ("string camera = 1;", "string camera = 1; // the robot's own name\n  bool dark = 7;", None),
        ("GATE_PASSED = 1;", "GATE_PASSED = 1; GATE_FAILED = 2;", None),
        ("rpc Infer", "rpc Ask(Image) returns (Image);\n  rpc Infer", None),
    ],
)
def test_each_kind_of_change_is_judged(tmp_path: Path, old: str, new: str, words: str | None) -> None:
    changed = PROTO.replace(old, new, 1)
    assert changed != PROTO
    broken = broken_promises(interface(tmp_path, PROTO), interface(tmp_path, changed))
    if words is None:
        assert broken == []
    else:
        assert any(re.search(words, sentence) for sentence in broken), broken


def test_what_was_reserved_once_stays_reserved_through_later_locks(tmp_path: Path) -> None:
    removed = interface(tmp_path, PROTO.replace("string camera = 1;", 'reserved 1; reserved "camera";'))
    reused = interface(tmp_path, PROTO)
    assert [sentence.split(";")[0] for sentence in broken_promises(removed, reused)] == [
        "the number 1 of trial.v1.Image was reserved and is not",
        "the name camera of trial.v1.Image was reserved and is not",
    ]


def renumber(interface: Any) -> None:
    """What the repository did once, on 2026-11-24, before there was a promise."""
    fields = interface["messages"]["pi0_edge.v1.Chunk"]["fields"]
    fields["8"] = fields.pop("6")


def forget(interface: Any) -> None:
    del interface["messages"]["pi0_edge.v1.JointHealth"]


@pytest.mark.parametrize(
    ("change", "words"), [(renumber, "Chunk.overrides had the number 6 and has 8"), (forget, "Health")]
)
def test_changes_of_the_own_past_would_be_refused(change: Callable[[Any], None], words: str) -> None:
    changed = copy.deepcopy(read_lock(ROOT))
    change(changed)
    assert any(words in sentence for sentence in broken_promises(read_lock(ROOT), changed))


def test_the_generator_writes_nothing_where_a_promise_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    promised = read_lock(ROOT)
    promised["messages"]["pi0_edge.v1.Chunk"]["fields"]["99"] = {"name": "mood", "type": "string"}
    (tmp_path / LOCK_FILE).parent.mkdir()
    (tmp_path / LOCK_FILE).write_text(lock_text(promised))
    monkeypatch.setattr(generate, "read_lock", lambda root: read_lock(tmp_path))
    monkeypatch.setattr("sys.argv", ["generate"])
    assert generate.main() == 1
    assert "Chunk.mood = 99 is gone and not reserved" in capsys.readouterr().err
    assert (ROOT / LOCK_FILE).read_text() == lock_text(read_lock(ROOT))


def test_a_recording_of_a_version_is_never_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["record_protocol.py", RECORDED[0].name])
    before = (RECORDED[0] / "messages.json").read_bytes()
    assert recorder().main() == 1
    assert (RECORDED[0] / "messages.json").read_bytes() == before
