"""`pi0-edge doctor --real-time`: on laid-out robots each fault is found by its check alone, and its command works."""

from __future__ import annotations

import inspect
import os
import subprocess
from pathlib import Path

import pytest
from cli_runner import run
from hypothesis import given
from hypothesis import strategies as st
from laid_out_robots import BRIDGE, CPU, INTERRUPTS, good_robot, lay_out, stat

from pi0_edge.doctor import real_time
from pi0_edge.doctor.bridge_process import running_bridge
from pi0_edge.doctor.check import Check
from pi0_edge.doctor.kernel_files import names_of_processors, processors

DEEP = {f"{CPU}/cpu{processor}/cpuidle/state1/disable": "0\n" for processor in range(8)}
DROP_IN = "/etc/systemd/system/pi0-edge-bridge.service.d"

FAULTS: list[tuple[str, dict[str, str | None], str, str]] = [
    (
        "real-time kernel",
        {"sys/kernel/realtime": None, "proc/version": "Linux version 5.15.148-tegra (gcc) #1 SMP PREEMPT Tue\n"},
        "5.15.148-tegra, PREEMPT; without",
        "nvidia-l4t-rt-kernel nvidia-l4t-rt-kernel-headers nvidia-l4t-rt-kernel-oot-modules",
    ),
    ("real-time share", {"proc/sys/kernel/sched_rt_runtime_us": "0\n"}, "0 µs: no thread", "/etc/sysctl.d/"),
    ("real-time share", {"proc/sys/kernel/sched_rt_runtime_us": "-1\n"}, "unlimited", "sched_rt_runtime_us = 950000"),
    ("real-time share", {"proc/sys/kernel/sched_rt_runtime_us": None}, "does not say", "sysctl kernel.sched_rt"),
    (
        "real-time share",
        {"proc/self/cgroup": "4:cpu,cpuacct:/docker/1\n", "sys/fs/cgroup/cpu/docker/1/cpu.rt_runtime_us": "0\n"},
        "0 µs for the control group /sys/fs/cgroup/cpu/docker/1",
        "sudo tee /sys/fs/cgroup/cpu/docker/1/cpu.rt_runtime_us",
    ),
    (
        "bridge priority",
        {f"{BRIDGE}/task/816/stat": stat(priority=0, policy=0)},
        "no real-time priority, niceness 0; the provisioned unit of the bridge allows it (LimitRTPRIO=80)",
        "CPUSchedulingPriority=49",
    ),
    (
        "bridge priority",
        {f"{BRIDGE}/task/{thread}/stat": stat(priority=90) for thread in (812, 815, 816)},
        "SCHED_FIFO 90, above the interrupt threads",
        "CPUSchedulingPriority=49",
    ),
    (
        "bridge memory",
        {
            f"{BRIDGE}/status": "Cpus_allowed_list:\t7\nVmLck:\t       0 kB\n",
            f"{BRIDGE}/limits": "Max locked memory         8388608              8388608              bytes\n",
        },
        "its limit is 8388608 bytes; the provisioned unit of the bridge allows it (LimitMEMLOCK=infinity)",
        f"{DROP_IN}/memory.conf",
    ),
    ("isolated processors", {f"{CPU}/nohz_full": "(null)\n"}, "nohz_full is empty", "nohz_full=7"),
    (
        "bridge processors",
        {f"{BRIDGE}/status": "Cpus_allowed_list:\t0-7\nVmLck:\t 9 kB\n"},
        "0-7; isolated are 7",
        "CPUAffinity=7",
    ),
    (
        "clock governor",
        {f"{CPU}/cpufreq/policy4/scaling_governor": "schedutil\n"},
        "policy0 performance, policy4 schedutil: clocks fall",
        "w /sys/devices/system/cpu/cpufreq/policy*/scaling_governor - - - - performance",
    ),
    (
        "idle states",
        {**DEEP},
        "state1 takes 5000 µs to leave; expected 100 or less",
        "w /sys/devices/system/cpu/cpu*/cpuidle/state1/disable - - - - 1",
    ),
    (
        "interrupts",
        {"proc/irq/86/effective_affinity_list": "7\n", "proc/irq/140/effective_affinity_list": "4-7\n"},
        "86 (xhci-hcd:usb1) on 7, 140 (vi) on 4-7; isolated are 7",
        "echo 0-6 | sudo tee /proc/irq/86/smp_affinity_list && echo 0-6 | sudo tee /proc/irq/140/smp_affinity_list",
    ),
    (
        "USB latency timers",
        {"sys/bus/usb-serial/devices/ttyUSB1/latency_timer": "16\n"},
        "ttyUSB0 1 ms, ttyUSB1 16 ms: bytes are collected for so long before they are passed on; expected 1 ms; the "
        "provisioned rule",
        "sudo udevadm trigger --action=add --subsystem-match=usb-serial",
    ),
    (
        "USB latency timers",
        {"sys/bus/usb-serial/devices/ttyUSB0/latency_timer": "16\n", "etc/udev/rules.d/70-pi0-edge.rules": None},
        "`pi0-edge robot provision` installs a rule",
        "/etc/udev/rules.d/70-pi0-edge-latency.rules",
    ),
    (
        "huge pages",
        {"sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never\n"},
        "moves pages of the bridge",
        "w /sys/kernel/mm/transparent_hugepage/enabled - - - - madvise",
    ),
]


def looked_at(root: Path) -> dict[str, Check]:
    found = [check(root) for check in real_time.CHECKS]  # pyright: ignore[reportCallIssue]
    assert len({check.name for check in found}) == len(found)
    return {check.name: check for check in found}


def test_nothing_is_left_to_mend_on_a_good_robot(tmp_path: Path):
    for check in looked_at(lay_out(tmp_path, {**good_robot()})).values():
        assert (check.status, check.fix) == ("pass", ""), check


@pytest.mark.parametrize(("name", "changed", "found", "fix"), FAULTS)
def test_each_fault_is_found_by_its_check_alone(tmp_path: Path, name: str, changed: dict, found: str, fix: str):
    checks = looked_at(lay_out(tmp_path, good_robot() | changed))
    assert [check.name for check in checks.values() if check.status != "pass"] == [name]
    assert found in checks[name].found
    assert fix in checks[name].fix


def test_every_check_has_a_fault_that_it_finds():
    names = {check(Path("/nonexistent")).name for check in real_time.CHECKS}  # pyright: ignore[reportCallIssue]
    assert {name for name, *_ in FAULTS} == names


def test_a_computer_that_says_nothing_is_no_error(tmp_path: Path):
    for check in looked_at(tmp_path).values():
        assert check.found and (check.status == "pass" or check.fix), check


@pytest.mark.parametrize("check", real_time.CHECKS)
def test_garbage_in_the_kernels_files_is_no_error(tmp_path: Path, check):
    for content in ("", "\xff\x00 garbage\n", "-", "(null)", "0-", "9" * 30):
        lay_out(tmp_path, dict.fromkeys(good_robot(), content))
        found = check(tmp_path)
        assert found.found and (found.status == "pass" or found.fix)


def test_a_robot_without_a_bridge_is_told_to_start_it(tmp_path: Path):
    checks = looked_at(lay_out(tmp_path, good_robot() | {f"{BRIDGE}/cmdline": None}))
    for name in ("bridge priority", "bridge memory", "bridge processors"):
        assert checks[name].fix == "sudo systemctl start pi0-edge-bridge.service"


@pytest.mark.parametrize(
    ("command", "is_one"),
    [
        ("/usr/bin/python3 -m firmware_bridge --port x", True),
        ("/usr/bin/python3 /usr/lib/pi0-edge/main.py launch bridge", True),
        ("/venv/bin/python /venv/bin/pi0-edge bridge --port x", True),
        ("/venv/bin/python -m pi0_edge.cli bridge --port x", True),
        ("/usr/bin/python3 /usr/lib/pi0-edge/main.py launch policy", False),
        ("vim firmware_bridge", False),
        ("python3 -m firmware_bridge.emulator.line", False),
    ],
)
def test_a_bridge_is_known_by_its_command(tmp_path: Path, command: str, is_one: bool):
    lay_out(tmp_path, good_robot() | {f"{BRIDGE}/cmdline": command.replace(" ", "\0") + "\0"})
    assert (running_bridge(tmp_path) is not None) is is_one


def test_few_processors_are_not_isolated(tmp_path: Path):
    lay_out(tmp_path, good_robot() | {f"{CPU}/online": "0-1\n", f"{CPU}/isolated": "\n"})
    assert real_time.isolated_processors(tmp_path).status == "pass"
    lay_out(tmp_path, {f"{CPU}/online": "0-7\n"})
    found = real_time.isolated_processors(tmp_path)
    assert found.status == "warn" and "isolcpus=managed_irq,domain,7 nohz_full=7" in found.fix


def test_a_limit_that_a_program_holds_keeps_processors_from_deep_sleep(tmp_path: Path):
    lay_out(tmp_path, {**good_robot(), **DEEP})
    (tmp_path / "dev").mkdir()
    for limit, status in ((0, "pass"), (20, "pass"), (6000, "warn"), (2_000_000_000, "warn")):
        (tmp_path / "dev/cpu_dma_latency").write_bytes(limit.to_bytes(4, "little"))
        assert real_time.idle_states(tmp_path).status == status, limit


def test_the_kernel_to_install_fits_the_computer(tmp_path: Path):
    stock = {"sys/kernel/realtime": None, "proc/version": "Linux version 6.8 (gcc) #1 SMP PREEMPT_DYNAMIC\n"}
    thor = {
        "proc/device-tree/model": "NVIDIA Jetson AGX Thor",
        "etc/nv_tegra_release": "# R38 (release), REVISION: 4.0\n",
    }
    fix = real_time.real_time_kernel(lay_out(tmp_path / "thor", good_robot() | stock | thor)).fix
    assert "jetson/rt-kernel r38.4 main" in fix and "nvidia-l4t-rt-kernel-openrm" in fix
    pc = {"proc/device-tree/model": None, "etc/nv_tegra_release": None}
    debian = lay_out(tmp_path / "debian", good_robot() | stock | pc | {"etc/os-release": "ID=debian\n"})
    assert "linux-image-rt-$(dpkg --print-architecture)" in real_time.real_time_kernel(debian).fix
    ubuntu = lay_out(tmp_path / "ubuntu", good_robot() | stock | pc | {"etc/os-release": 'NAME="Ubuntu"\nID=ubuntu\n'})
    assert "pro enable realtime-kernel" in real_time.real_time_kernel(ubuntu).fix


@pytest.fixture
def shell(tmp_path: Path):
    """Runs a command with its paths below a folder; programs that would change this machine only note their call."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
    for name in (
        "systemctl",
        "systemd-tmpfiles",
        "jetson_clocks",
        "udevadm",
        "update-grub",
        "reboot",
        "sysctl",
        "apt-get",
        "pro",
    ):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {programs}/calls\n')
    for program in programs.iterdir():
        program.chmod(0o755)

    def execute(command: str, root: Path) -> str:
        for top in ("etc", "boot", "proc/irq", "sys/fs"):
            for before in (" ", "> "):
                command = command.replace(f"{before}/{top}/", f"{before}{root}/{top}/")
        for folder in ("sysctl.d", "tmpfiles.d", "default/grub.d", "apt/sources.list.d", "udev/rules.d"):
            (root / "etc" / folder).mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        ran = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, (command, ran.stderr)
        return (programs / "calls").read_text() if (programs / "calls").exists() else ""

    return execute


def test_a_drop_in_is_written_as_it_was_meant(tmp_path: Path, shell):
    root = lay_out(tmp_path / "robot", good_robot() | {f"{BRIDGE}/task/816/stat": stat(priority=0, policy=0)})
    calls = shell(real_time.bridge_priority(root).fix, root)
    written = (root / f"{DROP_IN[1:]}/priority.conf").read_text()
    assert written == "[Service]\nCPUSchedulingPolicy=fifo\nCPUSchedulingPriority=49\nLimitRTPRIO=80\n"
    assert calls == "systemctl daemon-reload\nsystemctl restart pi0-edge-bridge.service\n"


def test_a_kernel_argument_reaches_extlinux_and_grub(tmp_path: Path, shell):
    root = lay_out(tmp_path / "jetson", good_robot() | {f"{CPU}/nohz_full": "\n"})
    shell(real_time.isolated_processors(root).fix, root)
    lines = (root / "boot/extlinux/extlinux.conf").read_text().splitlines()
    assert lines[-1] == "      APPEND ${cbootargs} quiet nohz_full=7"
    assert lines[:-1] == good_robot()["boot/extlinux/extlinux.conf"].splitlines()[:-1]
    root = lay_out(tmp_path / "pc", good_robot() | {f"{CPU}/nohz_full": "\n", "boot/extlinux/extlinux.conf": None})
    shell(real_time.isolated_processors(root).fix, root)
    variable = "GRUB_CMDLINE_LINUX_DEFAULT"
    sourced = f'{variable}=quiet; . {root}/etc/default/grub.d/90-pi0-edge.cfg; echo "${variable}"'
    assert subprocess.check_output(["sh", "-c", sourced], text=True) == "quiet nohz_full=7\n"


@pytest.mark.parametrize(("name", "changed", "_", "fix"), FAULTS)
def test_every_command_runs_in_a_shell(tmp_path: Path, shell, name: str, changed: dict, _: str, fix: str):
    root = lay_out(tmp_path / "robot", good_robot() | changed)
    check = looked_at(root)[name]
    if "sysctl kernel" in fix:
        pytest.skip("it only asks")
    shell(check.fix, root)
    written = "".join(path.read_text() for path in (root / "etc").rglob("*") if path.is_file())
    written += "".join(path.read_text() for path in (root / "boot").rglob("*") if path.is_file())
    if name in ("clock governor", "idle states", "huge pages"):
        assert f"{fix}\n" in written


def test_those_of_this_machine_and_the_rights_of_this_user_are_one_group():
    ran = run("doctor", "--real-time", "--json")
    assert ran.code == 0
    names = [check["name"] for check in ran.result["checks"]]
    assert names[:3] == ["SCHED_FIFO", "locked memory", "real-time kernel"]
    assert len(names) == 2 + len(real_time.CHECKS)
    for check in ran.result["checks"]:
        assert check["found"] and (check["status"] == "pass" or check["fix"]), check


def test_interrupts_that_matter_are_told_from_others():
    matched = [line.split()[-1] for line in INTERRUPTS.splitlines() if real_time.SERIAL_OR_CAMERA.search(line)]
    assert matched == ["xhci-hcd:usb1", "3100000.serial", "vi"]


@given(st.frozensets(st.integers(0, 300)))
def test_lists_of_processors_come_back_as_they_were(numbers: frozenset[int]):
    assert processors(names_of_processors(numbers)) == numbers


def test_every_check_can_be_called_without_arguments():
    for check in real_time.CHECKS:
        assert inspect.signature(check).parameters["root"].default == Path("/")
