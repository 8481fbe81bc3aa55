"""A run with the real parts and a serving certificate of another policy: refused, and accepted by name."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil

import numpy as np
import pytest
from measured_results import measured
from run_system import RunSystem
from watched_run import WatchedRun

from pi0_edge.bench.certifying import certify
from pi0_edge.robots import load_robot
from pi0_edge.run.problems import PreflightError

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("gym_aloha") is None, reason="the extra [sim] is not installed"),
]

CERTIFICATE = dataclasses.replace(
    certify(measured(), load_robot("aloha_sim")), replan_ticks=12, splice="hold-swap", board="", power_mode=""
)


def test_a_certificate_of_another_policy_keeps_the_arm_disarmed(system: RunSystem):
    with pytest.raises(PreflightError) as refused:
        WatchedRun(system, certificate=CERTIFICATE).run.play()
    assert {problem.rule for problem in refused.value.problems} == {"certificate"}
    assert "a policy without a bundle" in str(refused.value)
    assert "of the engine cuda, and here it is cpu" in str(refused.value)


def test_an_accepted_certificate_says_how_often_to_observe_and_how_chunks_enter(system: RunSystem):
    with WatchedRun(system, seconds=2.5, certificate=CERTIFICATE, accepted=["certificate"]) as watched:
        watched.end()
    said = watched.wait("certificate").text
    assert said.startswith("an observation every 12 ticks, splice hold-swap; certified by 0123456789abcdef for 12 ")
    assert watched.wait("started").text.endswith("overrides: accept-mismatch-certificate")
    assert all(observed.continuation is None for observed in watched.observed)
    spacing = np.diff([observed.tick for observed in watched.observed])
    assert len(spacing) > 1 and spacing.min() < 25, spacing


def test_a_run_without_a_certificate_says_so(system: RunSystem):
    with WatchedRun(system, seconds=0.5) as watched:
        watched.end()
    said = watched.wait("certificate").text
    assert said.startswith("an observation every 25 ticks, splice trained-rtc; without a serving certificate nobody")
