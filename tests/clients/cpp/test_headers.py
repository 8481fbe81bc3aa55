"""The headers of the C++ client say what the protos, the firmware and the Python client say; nothing is built."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cpp_client import LIBRARY

from firmware_bridge.replanning import WINDOW
from firmware_bridge.splice import RealTimeChunking
from pi0_edge import __version__
from pi0_edge.protos import bridge_pb2, policy_pb2
from pi0_edge.protos.serial_link import Fault

HEADERS = sorted((LIBRARY / "include" / "pi0_edge").iterdir())
SOURCES = sorted((LIBRARY / "src").iterdir())
TEXT = "\n".join(path.read_text() for path in HEADERS)


def values_of(declaration: str) -> dict[str, int]:
    """The enumerators of an enum in the headers, in upper case."""
    found = re.search(rf"{declaration} \{{(.*?)\}};", TEXT, re.DOTALL)
    assert found is not None, declaration
    return {name.upper(): int(value) for name, value in re.findall(r"(\w+) = (\d+)", found[1])}


def without(prefix: str, values: list[tuple[str, int]]) -> dict[str, int]:
    return {name.removeprefix(prefix): value for name, value in values}


def test_the_enums_have_the_values_of_the_protos():
    assert values_of("enum class State") == without("STATE_", bridge_pb2.State.items())
    assert values_of("enum class Gate") == without("GATE_", policy_pb2.Gate.items())
    assert values_of("enum class Outcome") == dict(bridge_pb2.ChunkReport.Outcome.items())
    assert values_of("enum class Method") == dict(policy_pb2.Continuation.Method.items())
    assert values_of("enum class Schedule") == dict(policy_pb2.Continuation.Schedule.items())


def test_the_names_of_faults_are_those_of_the_firmware():
    text = (LIBRARY / "src" / "messages.cpp").read_text()
    found = re.search(r"constexpr std::array names\{(.*?)\};", text, re.DOTALL)
    assert found is not None
    assert re.findall(r'"(\w+)"', found[1]) == [fault.name for fault in sorted(Fault, key=int)]


def test_real_time_chunking_has_the_defaults_of_the_python_client():
    guided = RealTimeChunking()
    assert f"std::uint32_t overlap = {guided.overlap};" in TEXT
    assert f"float max_weight = {guided.max_weight:.1f}F;" in TEXT
    assert policy_pb2.Continuation.Schedule.Name(guided.schedule) == "EXP" and "Schedule::exp;" in TEXT
    assert f"explicit DelayWindow(std::size_t size = {WINDOW});" in TEXT


def test_the_version_is_that_of_the_sdk():
    assert f"project(pi0_edge_client VERSION {__version__} " in (LIBRARY / "CMakeLists.txt").read_text()


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: path.name)
def test_no_header_names_a_type_of_grpc_or_protobuf(path: Path):
    assert not re.search(r"grpc|protobuf|\.pb\.h|v1::", re.sub(r"//.*", "", path.read_text()))


def test_every_public_class_and_struct_says_what_it_is():
    declared = re.compile(r"^(?!\s*///).*\n((?:class|struct) \w+[^;\n]*\{)", re.MULTILINE)
    assert [found for path in HEADERS for found in declared.findall(path.read_text())] == []
