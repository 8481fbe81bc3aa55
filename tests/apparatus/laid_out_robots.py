"""The files in which a robot's computer says how it treats a bridge in real time, laid out below a folder.

They are written by hand after proc(5), the kernel's documentation and NVIDIA's guides; they are of no recorded board.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

BRIDGE_PID = 812
CPU = "sys/devices/system/cpu"
BRIDGE = f"proc/{BRIDGE_PID}"
THREADS = (BRIDGE_PID, 815, 816)

INTERRUPTS = """\
           CPU0       CPU1       CPU7
 14:     910321          0          0     GICv3  26 Level     arch_timer
 86:      12001          0          0     GICv3 195 Level     xhci-hcd:usb1
101:       4410          0          0     GICv3 146 Level     3100000.serial
140:      90210          0          0     GICv3 233 Level     vi
IPI0:    123456     123456     123456       Rescheduling interrupts
"""


def stat(priority: int = 49, niceness: int = 0, policy: int = 1) -> str:
    """A line as in /proc/PID/stat, with a name that has everything in it that misleads a reader."""
    fields = ["0"] * 50  # from the state on: field 3 of proc(5)
    fields[0], fields[16], fields[37], fields[38] = "S", str(niceness), str(priority), str(policy)
    return f"{BRIDGE_PID} (bridge) 1 (x) {' '.join(fields)}\n"


def good_robot() -> dict[str, str]:
    """Path -> content of an AGX Orin on which nothing is left to mend."""
    files = {
        "proc/version": "Linux version 5.15.148-rt-tegra (aarch64-gcc 11) #1 SMP PREEMPT_RT Tue Jan 7 2026\n",
        "sys/kernel/realtime": "1\n",
        "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\n",
        "boot/extlinux/extlinux.conf": "LABEL primary\n      LINUX /boot/Image\n      APPEND ${cbootargs} quiet\n",
        "proc/self/cgroup": "0::/user.slice\n",
        "proc/sys/kernel/sched_rt_runtime_us": "950000\n",
        "proc/sys/kernel/sched_rt_period_us": "1000000\n",
        f"{CPU}/online": "0-7\n",
        f"{CPU}/isolated": "7\n",
        f"{CPU}/nohz_full": "7\n",
        f"{BRIDGE}/cmdline": "/usr/bin/python3\0-m\0firmware_bridge\0--port\0/dev/pi0-edge-board\0",
        f"{BRIDGE}/status": "Name:\tpython3\nCpus_allowed_list:\t7\nVmLck:\t   65536 kB\n",
        f"{BRIDGE}/limits": "Limit  Soft Limit  Hard Limit  Units\nMax locked memory  unlimited  unlimited  bytes\n",
        f"{BRIDGE}/stat": stat(),
        **{f"{BRIDGE}/task/{thread}/stat": stat() for thread in THREADS},
        "proc/901/cmdline": "/usr/bin/python3\0-m\0firmware_bridge.emulator.line\0",
        "proc/interrupts": INTERRUPTS,
        **{f"proc/irq/{number}/effective_affinity_list": "0\n" for number in (14, 86, 101, 140)},
        "sys/bus/usb-serial/devices/ttyUSB0/latency_timer": "1\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        "etc/udev/rules.d/70-pi0-edge.rules": "# as provisioned\n",
        "etc/systemd/system/pi0-edge-bridge.service": "[Service]\nLimitRTPRIO=80\nLimitMEMLOCK=infinity\n",
    }
    for policy in (0, 4):
        folder = f"{CPU}/cpufreq/policy{policy}"
        files |= {f"{folder}/scaling_governor": "performance\n"}
        files |= {f"{folder}/scaling_min_freq": "729600\n", f"{folder}/scaling_max_freq": "2201600\n"}
    for processor in range(8):
        folder = f"{CPU}/cpu{processor}/cpuidle"
        files |= {f"{folder}/state0/latency": "1\n", f"{folder}/state0/disable": "0\n"}
        files |= {f"{folder}/state1/latency": "5000\n", f"{folder}/state1/disable": "1\n"}
    return files


def lay_out(root: Path, files: Mapping[str, str | None]) -> Path:
    """Writes the files below a folder; what is None is left out."""
    for name, content in files.items():
        if content is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content.encode("latin-1"))
    return root
