"""What decides how late a thread of the bridge can be: kernel, priorities, processors, clocks, interrupts, USB.

Every check reads below a root folder, so that laid-out folders are test data; nothing is changed. Each finding names
the command that mends it for good, and says where a robot that was provisioned already has it. docs/real-time.md
explains why each matters and how to measure it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from pi0_edge.board.readings import Board
from pi0_edge.doctor.bridge_process import UNIT, allowed_by_unit, running_bridge
from pi0_edge.doctor.check import Check, apt
from pi0_edge.doctor.kernel_files import names_of_processors, number, processors, text

RULES = "etc/udev/rules.d/70-pi0-edge.rules"
PRIORITY = 50
"""Of the bridge: as high as the interrupt threads of a PREEMPT_RT kernel, below its timers and watchdogs."""

DEEPEST_IDLE_US = 100
"""Time to leave an idle state that is taken for harmless."""

_ROOT = Path("/")
_FEWEST_TO_ISOLATE = 4
_DROP_IN = "/etc/systemd/system/pi0-edge-bridge.service.d"
SERIAL_OR_CAMERA = re.compile(
    r"xhci|ehci|ohci|dwc[23]|uart|serial|ttyS|ttyTHS|ttyAMA|csi|camera|capture|\bvi\b|\bisp\b|\brce\b"
)
_ORIN_KERNEL = (
    "nvidia-l4t-rt-kernel",
    "nvidia-l4t-rt-kernel-headers",
    "nvidia-l4t-rt-kernel-oot-modules",
    "nvidia-l4t-display-rt-kernel",
)
"""NVIDIA's packages (Jetson Linux Developer Guide r38.4, Installing Real-Time Kernel)."""


def real_time_kernel(root: Path = _ROOT) -> Check:
    """Whether the kernel can be interrupted nearly everywhere (PREEMPT_RT)."""
    version = text(root / "proc/version")
    release = " ".join(version.split()[2:3]) or "an unknown release"
    if text(root / "sys/kernel/realtime") == "1" or "PREEMPT_RT" in version:
        return Check("real-time kernel", "pass", f"{release}, PREEMPT_RT")
    kind = "PREEMPT_DYNAMIC" if "PREEMPT_DYNAMIC" in version else "PREEMPT" if "PREEMPT" in version else "no preemption"
    found = f"{release}, {kind}; without PREEMPT_RT a driver can hold up the most urgent thread for milliseconds"
    return Check("real-time kernel", "warn", found, _kernel_commands(root))


def real_time_share(root: Path = _ROOT) -> Check:
    """How much of the time threads with a real-time priority may run, and whether their group may at all."""
    name = "real-time share"
    for folder in _groups(root):
        if (runtime := number(folder / "cpu.rt_runtime_us")) == 0:
            group = folder.relative_to(root)
            found = f"0 µs for the control group /{group}: SCHED_FIFO is refused there (RT_GROUP_SCHED)"
            return Check(name, "warn", found, f"echo 950000 | sudo tee /{group}/cpu.rt_runtime_us")
    runtime, period = (number(root / f"proc/sys/kernel/sched_rt_{what}_us") for what in ("runtime", "period"))
    if runtime is None:
        return Check(name, "warn", "the kernel does not say it", "sysctl kernel.sched_rt_runtime_us")
    if runtime == 0:
        fix = _setting("kernel.sched_rt_runtime_us = 950000")
        return Check(name, "warn", "0 µs: no thread may run with a real-time priority", fix)
    if runtime < 0:
        found = "unlimited: a thread with a real-time priority that never sleeps stops the computer"
        return Check(name, "warn", found, _setting("kernel.sched_rt_runtime_us = 950000"))
    return Check(name, "pass", f"{runtime} of {period} µs")


def bridge_priority(root: Path = _ROOT) -> Check:
    """Whether the running bridge has a real-time priority."""
    name, bridge = "bridge priority", running_bridge(root)
    if bridge is None:
        return _no_bridge(name)
    if bridge.priority:
        if text(root / "sys/kernel/realtime") == "1" and bridge.priority > PRIORITY:
            found = f"{bridge}: SCHED_FIFO {bridge.priority}, above the interrupt threads that it waits for"
            return Check(name, "warn", found, _drop_in("priority", _fifo(PRIORITY - 1)))
        return Check(name, "pass", f"{bridge}: SCHED_FIFO {bridge.priority}")
    priority = PRIORITY - 1 if text(root / "sys/kernel/realtime") == "1" else PRIORITY
    found = f"{bridge}: no real-time priority, niceness {bridge.niceness}{allowed_by_unit(root, 'LimitRTPRIO')}"
    return Check(name, "warn", found, _drop_in("priority", _fifo(priority)))


def bridge_memory(root: Path = _ROOT) -> Check:
    """Whether the memory of the running bridge is locked: a page that is read back from disk takes milliseconds."""
    name, bridge = "bridge memory", running_bridge(root)
    if bridge is None:
        return _no_bridge(name)
    if bridge.locked_kib:
        return Check(name, "pass", f"{bridge}: locked, {bridge.locked_kib / 1024:.0f} MiB of addresses")
    found = f"{bridge}: not locked; it locks where nothing limits how much, and its limit is {bridge.memory_limit}"
    found += allowed_by_unit(root, "LimitMEMLOCK")
    return Check(name, "warn", found, _drop_in("memory", "LimitMEMLOCK=infinity"))


def isolated_processors(root: Path = _ROOT) -> Check:
    """Whether a processor is kept free of other work."""
    name, online = "isolated processors", _online(root)
    isolated = _isolated(root)
    if isolated:
        quiet = processors(text(root / "sys/devices/system/cpu/nohz_full"))
        found = f"{names_of_processors(isolated)} of {names_of_processors(online)}"
        if isolated <= quiet:
            return Check(name, "pass", f"{found}, without a periodic tick (nohz_full)")
        found += f"; the periodic tick goes on there (nohz_full is {names_of_processors(quiet) or 'empty'})"
        fix = _kernel_argument(root, f"nohz_full={names_of_processors(isolated)}")
        return Check(name, "warn", found, f"{fix} && sudo reboot")
    if len(online) < _FEWEST_TO_ISOLATE:
        found = f"none of {len(online)}; with fewer than {_FEWEST_TO_ISOLATE} the policy needs all of them"
        return Check(name, "pass", found)
    last = max(online)
    found = f"none of {names_of_processors(online)}: the policy's threads and interrupts run wherever the bridge does"
    argument = f"isolcpus=managed_irq,domain,{last} nohz_full={last} rcu_nocbs={last}"
    return Check(name, "warn", found, f"{_kernel_argument(root, argument)} && sudo reboot")


def bridge_processors(root: Path = _ROOT) -> Check:
    """Whether the running bridge is on the isolated processors, where there are some."""
    name, bridge, isolated = "bridge processors", running_bridge(root), _isolated(root)
    if bridge is None:
        return _no_bridge(name)
    where = names_of_processors(bridge.cpus)
    if not isolated:
        return Check(name, "pass", f"{bridge}: {where}; none is isolated")
    if bridge.cpus <= isolated:
        return Check(name, "pass", f"{bridge}: {where}, isolated")
    wanted = names_of_processors(isolated)
    found = f"{bridge}: {where}; isolated are {wanted}, where nothing runs that does not ask for them"
    return Check(name, "warn", found, _drop_in("processors", f"CPUAffinity={wanted}"))


def clock_governor(root: Path = _ROOT) -> Check:
    """Whether the clock of every processor stays at its highest."""
    name = "clock governor"
    policies = sorted(root.glob("sys/devices/system/cpu/cpufreq/policy*"))
    if not policies:
        return Check(name, "pass", "this machine does not let the kernel change clocks")
    governors = {policy.name: text(policy / "scaling_governor") for policy in policies}
    slow = [
        policy.name
        for policy in policies
        if governors[policy.name] != "performance"
        and number(policy / "scaling_min_freq") != number(policy / "scaling_max_freq")
    ]
    found = ", ".join(f"{policy} {governor or 'unknown'}" for policy, governor in governors.items())
    if not slow:
        return Check(name, "pass", f"{found}; clocks do not fall")
    fix = _at_boot("governor", "performance", "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor")
    if Board(root).l4t_text:
        fix += " && sudo jetson_clocks"  # for GPU and memory as well, until the next start
    return Check(name, "warn", f"{found}: clocks fall when idle, and rise again when it is late", fix)


def idle_states(root: Path = _ROOT) -> Check:
    """Whether a processor may sleep so deeply that waking it up takes long."""
    name, deep = "idle states", dict[str, int]()
    limit = _resume_limit(root)
    for state in sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpuidle/state*")):
        latency = number(state / "latency") or 0
        if latency > DEEPEST_IDLE_US and number(state / "disable") == 0 and (limit is None or latency <= limit):
            deep[state.name] = max(latency, deep.get(state.name, 0))
    if not deep:
        held = "" if limit is None else f"; a program holds the limit at {limit} µs (cpu_dma_latency)"
        return Check(name, "pass", f"none takes longer than {DEEPEST_IDLE_US} µs to leave{held}")
    found = ", ".join(f"{state} takes {latency} µs to leave" for state, latency in deep.items())
    paths = (f"/sys/devices/system/cpu/cpu*/cpuidle/{state}/disable" for state in deep)
    return Check(name, "warn", f"{found}; expected {DEEPEST_IDLE_US} or less", _at_boot("idle", "1", *paths))


def interrupts(root: Path = _ROOT) -> Check:
    """Whether interrupts of serial ports, USB and cameras stay off the isolated processors."""
    name, isolated = "interrupts", _isolated(root)
    if not isolated:
        return Check(name, "pass", "no processor is isolated, so none has to be kept free of them")
    rest = names_of_processors(_online(root) - isolated)
    wrong = []
    for line in text(root / "proc/interrupts").splitlines():
        found = re.match(r"\s*(\d+):", line)
        if found is None or SERIAL_OR_CAMERA.search(line) is None:
            continue
        folder = root / "proc/irq" / found[1]
        affinity = text(folder / "effective_affinity_list") or text(folder / "smp_affinity_list")
        if processors(affinity) & isolated:
            wrong.append((found[1], line.split()[-1], affinity))
    if not wrong:
        return Check(
            name, "pass", f"those of serial ports, USB and cameras are off processor {names_of_processors(isolated)}"
        )
    found = ", ".join(f"{number} ({device}) on {affinity}" for number, device, affinity in wrong)
    now = " && ".join(f"echo {rest} | sudo tee /proc/irq/{number}/smp_affinity_list" for number, _, _ in wrong)
    found = f"{found}; isolated are {names_of_processors(isolated)}"
    return Check(name, "warn", found, f"{now} && {_kernel_argument(root, f'irqaffinity={rest}')}")


def usb_latency_timers(root: Path = _ROOT) -> Check:
    """Whether USB serial adapters pass on bytes at once; `setserial low_latency` shows in the same timer."""
    name = "USB latency timers"
    timers = {
        timer.parent.name: milliseconds
        for timer in sorted(root.glob("sys/bus/usb-serial/devices/*/latency_timer"))
        if (milliseconds := number(timer)) is not None
    }
    if not timers:
        return Check(name, "pass", "no USB serial adapter here has one (FTDI's have)")
    found = ", ".join(f"{port} {milliseconds} ms" for port, milliseconds in timers.items())
    if max(timers.values()) <= 1:
        return Check(name, "pass", found)
    found += ": bytes are collected for so long before they are passed on; expected 1 ms"
    apply = "sudo udevadm control --reload && sudo udevadm trigger --action=add --subsystem-match=usb-serial"
    if (root / RULES).exists():
        return Check(name, "warn", f"{found}; the provisioned rule /{RULES} sets it, but did not act", apply)
    rule = 'SUBSYSTEM=="usb-serial", DRIVER=="ftdi_sio", ATTR{latency_timer}="1"'
    fix = f"echo '{rule}' | sudo tee /etc/udev/rules.d/70-pi0-edge-latency.rules && {apply}"
    return Check(name, "warn", f"{found}; `pi0-edge robot provision` installs a rule that sets it", fix)


def huge_pages(root: Path = _ROOT) -> Check:
    """Whether the kernel makes huge pages of any memory, by moving pages under threads that use them.

    PREEMPT_RT kernels are built without them for that reason (Linux commit 554b0f3ca6f4).
    """
    name, mode = "huge pages", "sys/kernel/mm/transparent_hugepage/enabled"
    setting = text(root / mode)
    if "[always]" not in setting:
        return Check(name, "pass", f"transparent ones: {setting or 'not in this kernel'}")
    found = "transparent ones: always; the kernel moves pages of the bridge, locked ones as well, while it runs"
    return Check(name, "warn", found, _at_boot("huge-pages", "madvise", f"/{mode}"))


CHECKS: tuple[Callable[[], Check], ...] = (
    real_time_kernel,
    real_time_share,
    bridge_priority,
    bridge_memory,
    isolated_processors,
    bridge_processors,
    clock_governor,
    idle_states,
    interrupts,
    usb_latency_timers,
    huge_pages,
)
"""Those of `pi0-edge doctor --real-time`, besides the rights of this user (`doctor.robot`)."""


def _no_bridge(name: str) -> Check:
    return Check(name, "warn", "no bridge runs here that could be looked at", f"sudo systemctl start {UNIT}")


def _kernel_commands(root: Path) -> str:
    """That install a kernel with PREEMPT_RT, and start it."""
    board = Board(root)
    if not board.l4t_release:
        names = text(root / "etc/os-release")
        if re.search(r"^ID=ubuntu", names, re.MULTILINE):
            return "sudo pro attach && sudo pro enable realtime-kernel && sudo reboot"
        return f"{apt('linux-image-rt-$(dpkg --print-architecture)')} && sudo reboot"
    source = f"deb https://repo.download.nvidia.com/jetson/rt-kernel r{'.'.join(board.l4t_release.split('.')[:2])} main"
    more = ("nvidia-l4t-rt-kernel-openrm",) if "thor" in board.model.lower() else ()
    return (
        f"echo '{source}' | sudo tee -a /etc/apt/sources.list.d/nvidia-l4t-apt-source.list && sudo apt-get update && "
        f"sudo apt-get install {' '.join((*_ORIN_KERNEL, *more))} && sudo reboot"
    )


def _kernel_argument(root: Path, argument: str) -> str:
    """The command that starts the kernel with an argument, from its next start on."""
    if (root / "boot/extlinux/extlinux.conf").exists():
        return f"sudo sed -i '/^ *APPEND /s/$/ {argument}/' /boot/extlinux/extlinux.conf"
    line = f'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT {argument}"'
    return f"echo '{line}' | sudo tee -a /etc/default/grub.d/90-pi0-edge.cfg && sudo update-grub"


def _at_boot(name: str, value: str, *paths: str) -> str:
    """The command that writes a value into files of the kernel now and at each start; `*` stands for any of them."""
    file = f"/etc/tmpfiles.d/pi0-edge-{name}.conf"
    lines = "".join(f"w {path} - - - - {value}\\n" for path in paths)
    return f"printf '{lines}' | sudo tee {file} && sudo systemd-tmpfiles --create {file}"


def _drop_in(name: str, lines: str) -> str:
    """The command that gives the bridge's unit more lines, for good."""
    content = f"[Service]\\n{lines}\\n"
    return (
        f"sudo mkdir -p {_DROP_IN} && printf '{content}' | sudo tee {_DROP_IN}/{name}.conf && "
        f"sudo systemctl daemon-reload && sudo systemctl restart {UNIT}"
    )


def _fifo(priority: int) -> str:
    return f"CPUSchedulingPolicy=fifo\\nCPUSchedulingPriority={priority}\\nLimitRTPRIO=80"


def _setting(line: str) -> str:
    return f"echo '{line}' | sudo tee /etc/sysctl.d/90-pi0-edge.conf && sudo sysctl --system"


def _groups(root: Path) -> list[Path]:
    """Folders of the control groups that may limit real-time threads of this process, of version 1."""
    found = []
    for line in text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if "cpu" in controllers.split(","):
            found += [root / "sys/fs/cgroup" / mount / path.strip("/") for mount in ("cpu", "cpu,cpuacct")]
    return found


def _online(root: Path) -> frozenset[int]:
    return processors(text(root / "sys/devices/system/cpu/online"))


def _isolated(root: Path) -> frozenset[int]:
    """By the kernel's arguments, or by a partition of a control group."""
    found = processors(text(root / "sys/devices/system/cpu/isolated"))
    return found | processors(text(root / "sys/fs/cgroup/cpuset.cpus.isolated"))


def _resume_limit(root: Path) -> int | None:
    """Microseconds that programs allow for waking up (PM QoS); None where none limits it, or only root may read it."""
    try:
        content = (root / "dev/cpu_dma_latency").open("rb").read(4)
    except OSError:
        return None
    limit = int.from_bytes(content, "little", signed=True)
    return limit if len(content) == 4 and limit < 1_000_000 else None
