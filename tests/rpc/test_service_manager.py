"""What reaches systemd, on a real socket of the file system and of the abstract namespace."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from notify_socket import NotifySocket

from pi0_edge.protos.rpc import service_manager
from pi0_edge.protos.rpc.service_manager import LONGEST_START_S, ServiceManager

pytestmark = pytest.mark.system


@pytest.fixture(params=["path", "abstract"])
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NotifySocket]:
    made = NotifySocket(tmp_path / "notify" if request.param == "path" else f"@pi0-edge-test-{os.getpid()}")
    yield made
    made.close()


def manager(receiver: NotifySocket, **more: str) -> ServiceManager:
    return ServiceManager({"NOTIFY_SOCKET": receiver.name, **more})


def test_what_a_service_says_reaches_systemd(receiver: NotifySocket):
    systemd = manager(receiver)
    systemd.status("loading\nthe policy")
    systemd.ready("on port 1")
    systemd.feed_watchdog()
    systemd.stopping("asked to stop")
    assert receiver.messages() == [
        ["STATUS=loading the policy"],
        ["READY=1", "STATUS=on port 1", "WATCHDOG=1"],
        ["STOPPING=1", "STATUS=asked to stop"],
    ]


def test_the_watchdog_is_fed_where_systemd_asks_and_not_more_often_than_it_helps(receiver: NotifySocket):
    systemd = manager(receiver, WATCHDOG_USEC="600000", WATCHDOG_PID=str(os.getpid()))
    assert (systemd.watchdog_s, systemd.feed_every_s) == (0.6, pytest.approx(0.2))
    began = time.monotonic()
    while time.monotonic() - began < 0.65:
        systemd.feed_watchdog()
        time.sleep(0.001)
    said = receiver.messages()
    assert set(map(tuple, said)) == {("WATCHDOG=1",)}
    assert 3 <= len(said) <= 7


@pytest.mark.parametrize(
    "environment",
    [{"WATCHDOG_USEC": "600000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {}],
)
def test_no_watchdog_of_another_process_or_without_a_time(receiver: NotifySocket, environment: dict[str, str]):
    systemd = manager(receiver, **environment)
    systemd.feed_watchdog()
    assert (systemd.watchdog_s, systemd.feed_every_s, receiver.messages()) == (None, None, [])


@pytest.mark.parametrize("address", ["", "@", "relative/path", "/does/not/exist"])
def test_nothing_happens_where_nobody_listens(address: str):
    systemd = ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "600000"})
    with systemd.starting("loading"):
        systemd.ready("on port 1")
        systemd.feed_watchdog()
        systemd.stopping("done")
    assert not [thread for thread in threading.enumerate() if thread.name == "service-start"]


@pytest.mark.real_time
def test_a_start_gets_more_time_until_it_is_done(receiver: NotifySocket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(service_manager, "_EXTEND_EVERY_S", 0.05)
    systemd = manager(receiver)
    with systemd.starting("reading the policy"):
        time.sleep(0.3)
    said = receiver.messages()
    assert 3 <= len(said) <= 7
    assert all(message == ["EXTEND_TIMEOUT_USEC=30000000", "STATUS=reading the policy"] for message in said)
    time.sleep(0.2)
    assert receiver.messages() == []


@pytest.mark.real_time
def test_a_start_that_hangs_gets_no_more_time_than_all_starts_together(
    receiver: NotifySocket, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(service_manager, "_EXTEND_EVERY_S", 0.05)
    systemd = manager(receiver, **{LONGEST_START_S: "0.4"})
    began = time.monotonic()
    with systemd.starting("one"):
        time.sleep(0.2)
    with systemd.starting("two"):
        time.sleep(0.5)
    for message in receiver.messages():
        assert 0 < int(message[0].removeprefix("EXTEND_TIMEOUT_USEC=")) <= 400_000
    assert time.monotonic() - began > 0.4
    with systemd.starting("three"):
        time.sleep(0.1)
    assert receiver.messages() == []


def test_a_full_queue_of_systemd_does_not_stop_the_service(receiver: NotifySocket, caplog: pytest.LogCaptureFixture):
    systemd = manager(receiver)
    began, sent = time.monotonic(), 0
    while not caplog.records and sent < 2000:
        systemd.status("again")
        sent += 1
    assert time.monotonic() - began < 5
    assert "systemd was not told STATUS=again" in caplog.text
