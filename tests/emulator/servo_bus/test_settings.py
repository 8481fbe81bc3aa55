"""Settings of servo buses are read whole, and every mistake in them is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from firmware_bridge.emulator.servo_bus.arms import ARMS, aloha_bus
from firmware_bridge.emulator.servo_bus.settings import (
    BusSettings,
    ListedServo,
    ServoSettings,
    buses_of,
    load_buses,
    parse_buses,
)
from pi0_edge.errors import ConfigError


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_a_document_gives_the_buses_that_were_written(tmp_path: Path, suffix: str) -> None:
    document = {"buses": [dataclasses.asdict(bus) for bus in ARMS["aloha"]]}
    text = json.dumps(document)
    path = tmp_path / f"buses{suffix}"
    path.write_text(text if suffix == ".json" else yaml.safe_dump(json.loads(text)))
    assert load_buses(path) == ARMS["aloha"]


def test_a_plain_list_gives_a_bus_for_each_name() -> None:
    lines = [
        ListedServo("left", 2, None, 1500, "dynamixel", "XM540-W270"),
        ListedServo("right", 2, None, 1600, "dynamixel", "XM540-W270"),
        ListedServo("left", 3, 2, 1500, "dynamixel", "XM540-W270"),
    ]
    left, right = buses_of(lines, baud=4_000_000)
    assert [(servo.id, servo.secondary_id, servo.position) for servo in left.servos] == [(2, None, 1500), (3, 2, 1500)]
    assert [servo.position for servo in right.servos] == [1600]
    assert (left.name, left.baud, left.protocol) == ("left", 4_000_000, "dynamixel")
    assert {servo.baud for servo in left.servos} == {4_000_000}


def test_a_listed_servo_of_another_protocol_is_refused() -> None:
    with pytest.raises(ConfigError, match="STS3215 speaks feetech, not dynamixel"):
        buses_of([ListedServo("arm", 1, None, 2048, "dynamixel", "STS3215")])


@pytest.mark.parametrize(
    ("servos", "message"),
    [
        ((), "no servos"),
        ((ServoSettings(1, "XM999"),), "model 'XM999' is not known; known are STS3215"),
        ((ServoSettings(1, "STS3215"), ServoSettings(1, "STS3215")), r"IDs \[1\] occur twice"),
        ((ServoSettings(1, "STS3215"), ServoSettings(2, "XM430-W350")), "several protocols"),
        ((ServoSettings(253, "XM430-W350"),), "id is 253, expected 0 to 252"),
        ((ServoSettings(1, "STS3215", secondary_id=2),), "only Dynamixel"),
        ((ServoSettings(1, "XM430-W350", operating_mode=1),), "operating_mode is 1"),
        ((ServoSettings(1, "XM430-W350", return_delay_us=3),), "even 0 to 508"),
        ((ServoSettings(1, "XM430-W350", lowest=5, highest=4),), "lowest 5 is above highest 4"),
        ((ServoSettings(1, "XM430-W350", inertia=0.0),), "inertia is 0.0"),
        (
            (
                ServoSettings(1, "XM430-W350"),
                ServoSettings(2, "XM430-W350", secondary_id=1),
                ServoSettings(3, "XM430-W350", secondary_id=2),
            ),
            r"servos \[3\] are shadows of shadows",
        ),
    ],
)
def test_impossible_servos_are_refused(servos: tuple[ServoSettings, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BusSettings("bus", servos)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"connection": "radio"}, "expected one of pty, server, client"),
        ({"connection": "server"}, "only a socket has a path"),
        ({"socket": "there"}, "only a socket has a path"),
        ({"supply_ohms": -1.0}, "supply of"),
    ],
)
def test_impossible_buses_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        aloha_bus("bus", **changes)


@pytest.mark.parametrize(
    ("bus", "message"),
    [
        ({"servos": []}, "needs name"),
        ({"name": "a", "servos": [{"id": 1}]}, "needs model"),
        ({"name": "a", "servos": [], "wires": 3}, "has no wires"),
        ({"name": "a", "servos": [{"id": 1, "model": "STS3215", "colour": "red"}]}, "has no colour"),
        ({"name": "a", "servos": "many"}, "servos is 'many', expected tuple"),
        ({"name": "a", "servos": [{"id": "one", "model": "STS3215"}]}, "id is 'one', expected int"),
    ],
)
def test_mistakes_in_a_document_are_named(bus: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_buses([bus])


def test_two_buses_of_one_name_are_refused() -> None:
    bus = dataclasses.asdict(aloha_bus("arm"))
    with pytest.raises(ConfigError, match="different names"):
        parse_buses([bus, bus])


def test_a_document_that_is_no_list_of_buses_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "buses.yaml"
    path.write_text("buses: 3")
    with pytest.raises(ConfigError, match="need a list `buses`"):
        load_buses(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_buses(tmp_path / "missing.yaml")
