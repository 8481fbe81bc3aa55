"""Tests of trust make thousands of small files, and none of them cuts the power of a real disk."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def unsynced_files() -> Iterator[None]:
    """For tests that only look at what other processes would see."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield
