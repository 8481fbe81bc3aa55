"""Which time counts: clocks of 1970 and 2099, and what is known besides."""

from __future__ import annotations

import math
import re
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trust_cases import Workstation

from pi0_edge.deploy.trust.trusted_time import BUILD_DATE, PLAUSIBLE_S, reference_time

pytestmark = pytest.mark.usefixtures("unsynced_files")

ROOT = Path(__file__).resolve().parents[3]
YEAR = 365.25 * 86400
BUILT = BUILD_DATE.timestamp()
IN_2099 = datetime(2099, 1, 1, tzinfo=timezone.utc).timestamp()


@pytest.mark.parametrize(
    ("clock", "committed_at", "expected", "reason"),
    [
        (BUILT + YEAR, 0, BUILT + YEAR, "time: 2027-11-27 by the clock"),
        (0, 0, BUILT, "the clock says 1970-01-01, which is before the date of this SDK"),
        (0, BUILT + YEAR, BUILT + YEAR, "which is before the last commit, 2027-11-27"),
        (IN_2099, 0, BUILT, "2099-01-01, more than ten years after the date of this SDK, 2026-11-27, and is not used"),
        (IN_2099, BUILT + YEAR, BUILT + YEAR, "more than ten years after the last commit"),
        (BUILT + YEAR, IN_2099, BUILT + YEAR, "the last commit was made by a clock more than ten years after"),
        (IN_2099, IN_2099, BUILT, "is not used; that one is; the last commit was made by a clock"),
        (BUILT + 11 * YEAR, BUILT + 2 * YEAR, BUILT + 11 * YEAR, "by the clock"),
        (math.nan, math.nan, BUILT, "not used"),
        (math.inf, 0, BUILT, "not used"),
        (-math.inf, 0, BUILT, "before the date of this SDK"),
    ],
)
def test_the_time_that_counts_has_a_reason(clock: float, committed_at: float, expected: float, reason: str) -> None:
    found, said = reference_time(clock, committed_at)
    assert found.timestamp() == pytest.approx(expected, abs=1)
    assert reason in said


@given(clock=st.floats(), committed_at=st.floats())
def test_no_clock_leads_before_the_build_or_out_of_sight(clock: float, committed_at: float) -> None:
    found, said = reference_time(clock, committed_at)
    assert BUILT <= found.timestamp() <= BUILT + 2 * PLAUSIBLE_S
    assert said.startswith("time: ")
    assert "\n" not in said


def test_a_robot_in_1970_and_one_in_2099_install_a_fresh_release(tmp_path: Path) -> None:
    workstation = Workstation(tmp_path)
    staged = workstation.release(1)
    for clock in (0.0, IN_2099):
        found = workstation.robot(f"robot-{clock}").install(staged, clock)
        assert "clock" in found.reasons[0]


def test_a_robot_in_1970_refuses_what_expired_before_its_last_commit(tmp_path: Path) -> None:
    workstation = Workstation(tmp_path)
    staged = workstation.release(1, expires_months=1)
    robot = workstation.robot()
    robot.committed_at = (datetime.now(timezone.utc) + timedelta(days=200)).timestamp()
    robot.refuses(staged, r"expired on .*the clock says 1970-01-01, which is before the last commit", 0.0)


def test_the_time_of_python_tuf_is_really_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`refresh` sets a field of python-tuf that has no public name: without effect a frozen release would be accepted.

    The release expired in what python-tuf takes for the present, and is valid in ours, and the other way round.
    """
    workstation = Workstation(tmp_path)
    staged = workstation.release(1, expires_months=1)

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=400)

    monkeypatch.setattr("tuf.ngclient._internal.trusted_metadata_set.datetime.datetime", Later)
    workstation.robot("now").install(staged)
    monkeypatch.undo()
    workstation.robot("later").refuses(
        staged, "expired on", (datetime.now(timezone.utc) + timedelta(days=400)).timestamp()
    )


def test_the_build_date_is_renewed_once_a_year() -> None:
    shown = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False)
    if shown.returncode or not re.fullmatch(r"\d+\n", shown.stdout):
        pytest.skip("no git history here, so the date of the sources is not known")
    age = int(shown.stdout) - BUILT
    assert -2 * 86400 < age < YEAR, "set BUILD_DATE in pi0_edge/deploy/trust/trusted_time.py to today"
