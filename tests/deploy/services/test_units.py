"""The units themselves: they are valid, old enough for the systems they are for, and open as little as they may."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pi0_edge.deploy.launcher.services import BRIDGE, LATE, POLICY, TRIAL_END
from pi0_edge.deploy.provisioning.payload import UNITS
from pi0_edge.protos.rpc.service_manager import LONGEST_START_S
from pi0_edge.serving.latency_budget import LATE_EXIT_CODE

FILES = sorted(path for path in UNITS.iterdir() if path.suffix != ".rules")
AFTER_249 = {
    *("ExitType", "RestrictFileSystems", "RestrictNetworkInterfaces", "LoadCredentialEncrypted", "OpenFile"),
    *("RestartMode", "RestartSteps", "RestartMaxDelaySec", "MemoryPressureWatch", "FileDescriptorStorePreserve"),
    *("PrivatePIDs", "MemoryZSwapMax", "PollLimitIntervalSec", "PassFileDescriptorsToExec", "SetLoginEnvironment"),
    *("ConditionPathIsSymbolicLinkTo", "Upholds", "NFTSet", "CoredumpReceive", "StartupAllowedCPUs", "ReloadSignal"),
}
"""Directives of later versions than Ubuntu 22.04 has, such as JetPack 6."""
MOST_EXPOSED = {
    "policy": 2.0,
    "bridge": 2.0,
    "run": 2.2,
    "fallback": 1.5,
    "trial-end": 1.5,
    "installer@": 4.0,
    "firmware": 3.5,
}


def directives(file: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in file.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_unit_is_valid_and_needs_no_later_systemd_than_249(file: Path):
    assert not set(directives(file)) & AFTER_249
    ran = analyze("verify", "--man=no", "--recursive-errors=no", str(file))
    wrong = [line for line in (ran.stdout + ran.stderr).splitlines() if "pi0-edge" in line]
    assert wrong == []


@pytest.mark.parametrize("name", MOST_EXPOSED)
def test_a_service_is_not_more_exposed_than_it_must_be(name: str):
    ran = analyze("security", "--offline=yes", str(UNITS / f"pi0-edge-{name}.service"))
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", ran.stdout)
    if exposure is None:
        pytest.skip(f"systemd-analyze knows no --offline: {ran.stderr.strip()}")
    assert float(exposure[1]) <= MOST_EXPOSED[name], ran.stdout


def test_units_launcher_and_server_mean_the_same():
    assert LATE == LATE_EXIT_CODE
    policy = directives(UNITS / POLICY)
    assert policy["RestartPreventExitStatus"] == [str(LATE)]
    for unit in (BRIDGE, TRIAL_END, *policy["OnFailure"]):
        assert (UNITS / unit).is_file()


def test_three_starts_that_hang_are_counted_as_three():
    policy = directives(UNITS / POLICY)
    longest = next(value for value in policy["Environment"] if value.startswith(LONGEST_START_S)).partition("=")[2]
    one = float(longest) + float(policy["TimeoutStopSec"][0]) + float(policy["RestartSec"][0])
    assert int(policy["StartLimitBurst"][0]) * one < float(policy["StartLimitIntervalSec"][0])


def test_what_moves_the_arm_starts_at_nobodys_wish_but_a_persons():
    for name in ("pi0-edge-run.service", "pi0-edge-trial-end.timer", "pi0-edge-fallback.service"):
        assert "[Install]" not in (UNITS / name).read_text(), "provisioning enables every unit that has this section"
    assert directives(UNITS / "pi0-edge-run.service")["Restart"] == ["no"]


def test_the_installer_may_reach_devices():
    """ProtectClock leaves nothing but the clock among the devices of a service without a list of its own."""
    installer = directives(UNITS / "pi0-edge-installer@.service")
    assert not {"ProtectClock", "PrivateDevices", "DeviceAllow"} & set(installer)


def test_rules_of_udev_have_keys_and_operators_alone():
    """`udevadm verify` came with systemd 254."""
    rule = re.compile(r'(?:[A-Z_]+(?:\{[A-Za-z0-9_]+\})?(?:==|!=|\+=|=)"[^"]*"(?:, |$))+')
    lines = [line for line in (UNITS / "70-pi0-edge.rules").read_text().splitlines() if line and line[0] != "#"]
    assert [line for line in lines if not rule.fullmatch(line)] == []
    labels = set(re.findall(r'LABEL="(\w+)"', "\n".join(lines)))
    assert set(re.findall(r'GOTO="(\w+)"', "\n".join(lines))) == labels


def test_units_have_sections_and_keys():
    for file in FILES:
        parser = configparser.RawConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]
        parser.read(file)
        assert "Unit" in parser.sections(), file
