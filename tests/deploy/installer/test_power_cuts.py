"""The power goes while a robot is flashed, commits, goes back or deletes: it runs a whole release, and all goes on."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cut_flashes import flash_subjects
from flashed_disk import Signed, healthy_programs
from power_cuts import why_no_recorder

from pi0_edge.deploy.installer import garbage, trial
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.slots import Slots, write_slots

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.system,
    pytest.mark.skipif(why_no_recorder() is not None, reason=why_no_recorder() or ""),
]
FIRST, INSTALL, COMMIT, ROLL_BACK, FALL_BACK, GARBAGE = range(6)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return Signed(tmp_path_factory.mktemp("workstation"))


@pytest.fixture(autouse=True)
def programs() -> Iterator[None]:
    with healthy_programs():
        yield


@pytest.mark.parametrize("number", [FIRST, INSTALL, COMMIT, ROLL_BACK, FALL_BACK, GARBAGE])
def test_what_runs_is_whole(signed: Signed, number: int) -> None:
    subject = flash_subjects(signed)[number]
    cuts = subject.cut(25, go_on_every=7)
    assert cuts.torn == []
    assert cuts.good.keys() <= subject.words
    assert len(cuts.good) > 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [FIRST, INSTALL, COMMIT, ROLL_BACK, FALL_BACK, GARBAGE])
def test_what_runs_is_whole_after_hundreds_of_cuts_and_the_work_goes_on(signed: Signed, number: int) -> None:
    subject = flash_subjects(signed)[number]
    cuts = subject.cut(200, seed=1)
    assert cuts.torn == []
    assert cuts.good.keys() == subject.words


def test_an_installer_that_synchronizes_nothing_is_found(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        subject = flash_subjects(signed)[FIRST]

        def run(disk: Path) -> None:
            subject.run(disk)
            time.sleep(0.5)  # another program brings the names to the disk meanwhile, and nobody the content

        cuts = replace(subject, run=run).cut(40, go_on_every=1000)
    assert cuts.torn, cuts.good


def test_a_state_that_is_written_in_its_place_is_found(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    def naive(layout: Layout, slots: Slots) -> None:
        write_slots(layout, slots)
        whole = layout.slots.read_bytes()
        with layout.slots.open("wb") as file:
            for byte in range(len(whole)):
                file.write(whole[byte : byte + 1])
                if byte % 50 == 0:
                    file.flush()
                    os.fsync(file.fileno())

    monkeypatch.setattr(trial, "write_slots", naive)
    cuts = flash_subjects(signed)[COMMIT].cut(30, go_on_every=1000)
    assert any("slots.json cannot be read" in line for line in cuts.torn), cuts


def test_a_release_that_is_deleted_in_its_place_is_found(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    def naive(layout: Layout, release_id: str) -> None:
        shutil.rmtree(layout.release(release_id))

    monkeypatch.setattr(garbage, "delete_release", naive)
    cuts = flash_subjects(signed)[GARBAGE].cut(30, go_on_every=1000)
    assert any("is torn" in line for line in cuts.torn), cuts
