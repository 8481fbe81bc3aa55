"""Clients of websockets 15 and later ask the environment for a proxy, for loopback too."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is reached without one."""
    monkeypatch.setenv("no_proxy", "*")
