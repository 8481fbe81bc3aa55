"""Which time counts when a robot looks at an expiry: boards without a battery start in 1970, or years ahead.

The clock is believed where it is not earlier than what the robot knows for certain, and not absurdly later. Time that
runs behind cannot be helped by anybody without a network; that it stops an attacker less is why a release expires in
months, and why the sequence is checked apart from it.
"""

from __future__ import annotations

from datetime import datetime, timezone

BUILD_DATE = datetime(2026, 11, 27, tzinfo=timezone.utc)
"""This code is not older, so no robot that runs it is in an earlier time; a test asks for a newer date once a year."""

PLAUSIBLE_S = 10 * 365.25 * 86400
"""A clock that is so much later than everything else is wrong: in 2099 nothing could ever be installed."""


def reference_time(clock: float, committed_at: float) -> tuple[datetime, str]:
    """The time that expiries are compared with, and why.

    Args:
        clock: Of the robot, Unix time.
        committed_at: When the robot last committed a release, by its own clock then; 0 where it never did.

    Returns:
        The time, and one line about it.
    """
    known, source = BUILD_DATE.timestamp(), f"the date of this SDK, {_day(BUILD_DATE.timestamp())}"
    notes = []
    if committed_at > known:
        if committed_at <= known + PLAUSIBLE_S:
            known, source = committed_at, f"the last commit, {_day(committed_at)}"
        else:
            notes.append(f"the last commit was made by a clock more than ten years after {source}, and is not used")
    if known <= clock <= known + PLAUSIBLE_S:
        found = f"time: {_day(clock)} by the clock"
        known = clock
    elif clock < known:
        found = f"time: the clock says {_day(clock)}, which is before {source}; that one is used"
    else:
        found = f"time: the clock says {_day(clock)}, more than ten years after {source}, and is not used; that one is"
    return datetime.fromtimestamp(known, timezone.utc).replace(microsecond=0), "; ".join((found, *notes))


def _day(moment: float) -> str:
    try:
        return datetime.fromtimestamp(moment, timezone.utc).date().isoformat()
    except (OverflowError, ValueError, OSError):
        return f"{moment:g} s"
