"""After a power cut at any moment, what counts as an SDK environment has every byte of it."""

from __future__ import annotations

import base64
import csv
import hashlib
from pathlib import Path

import pytest
from power_cuts import cut_states, why_no_recorder
from sdk_folders import small_sdk

from pi0_edge.deploy.installer.environments import (
    COMPLETE,
    install_environment,
    installed_version,
    is_complete,
    remove_environments,
)
from pi0_edge.deploy.launcher.layout import Layout

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.system,
    pytest.mark.skipif(why_no_recorder() is not None, reason=why_no_recorder() or ""),
]
STATES = [60, pytest.param(400, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_sdk(tmp_path_factory.mktemp("sdk"))


def which(root: Path) -> str:
    """The state of the environments: none, one that does not count, or one that counts and is whole."""
    environments = Layout(root).environments
    found = list(environments.iterdir()) if environments.is_dir() else []
    if not found:
        return "none"
    if not is_complete(found[0]):
        assert not (found[0] / COMPLETE).exists()
        return "interrupted"
    assert installed_version(found[0]) == "0.1.0"
    site = next(found[0].glob("lib/python3*/site-packages"))
    lists = sorted(site.glob("*.dist-info/RECORD"))
    assert len(lists) == 3
    for listed in lists:
        for name, digest, _ in csv.reader(listed.read_text().splitlines()):
            content = (site / name).read_bytes()
            if digest:
                expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                assert digest == f"sha256={expected}", name
            elif name.endswith(".pyc"):
                assert len(content) > 16 and content[:4] != bytes(4), name
    return "whole"


def install(sdk: Path, root: Path) -> None:
    install_environment(Layout(root), sdk)


@pytest.mark.parametrize("states", STATES)
def test_an_installation_is_whole_or_does_not_count(sdk: Path, states: int) -> None:
    cuts = cut_states(lambda root: None, lambda root: install(sdk, root), which, states)
    assert cuts.torn == []
    assert cuts.good.keys() <= {"none", "interrupted", "whole"} and cuts.good["whole"] and len(cuts.good) > 1


@pytest.mark.parametrize("states", STATES)
def test_what_is_being_removed_is_whole_or_does_not_count(sdk: Path, states: int) -> None:
    cuts = cut_states(
        lambda root: install(sdk, root), lambda root: remove_environments(Layout(root), set()), which, states
    )
    assert cuts.torn == []
    assert cuts.good.keys() <= {"none", "interrupted", "whole"} and cuts.good["whole"]
