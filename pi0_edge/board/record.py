r"""Writes what a computer says about itself into one readable file, for others to test with.

    python -m pi0_edge.board.record > my-board.txt

The file holds what `Board` reads and what lies beside it: no serial numbers, no process names, no addresses. As root,
it also holds energy counters and the clock of a Jetson's memory. Each file of the computer is one entry:

    /path = content          one line; a line end follows
    /path = content\         one line without a line end
    /path:                   several lines, each after four blanks
    /path fails              it is there, but cannot be read

`\\`, `\0` and `\xNN` stand for a backslash, a zero byte and any other byte that an editor would not show or keep.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from pi0_edge.board.files import matching
from pi0_edge.board.identity import l4t_text, model

PATTERNS = (
    "etc/nv_tegra_release",
    "etc/nvpmodel.conf",
    "etc/os-release",
    "proc/cpuinfo",
    "proc/device-tree/compatible",
    "proc/device-tree/model",
    "proc/meminfo",
    "proc/stat",
    "proc/sys/kernel/osrelease",
    "proc/sys/kernel/random/boot_id",
    "proc/version",
    "sys/class/devfreq/*/{cur_freq,governor,max_freq,min_freq}",
    "sys/class/hwmon/hwmon*/{fan*_input,label,name,oc*_event_cnt,oc*_throt_en,pwm1,rpm}",
    "sys/class/hwmon/hwmon*/{curr*_input,in*_enable,in*_input,in*_label,power*_input,temp*_input,temp*_label}",
    "sys/class/powercap/intel-rapl*/{energy_uj,max_energy_range_uj,name}",
    "sys/class/thermal/cooling_device*/{cur_state,max_state,type}",
    "sys/class/thermal/thermal_zone*/{temp,type}",
    "sys/devices/platform/soctherm-oc-event/hwmon/hwmon*/oc*_event_cnt",
    "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/package_throttle_count",
    "sys/devices/system/cpu/cpu[0-9]*/topology/physical_package_id",
    "sys/devices/system/cpu/cpufreq/policy*/{scaling_cur_freq,scaling_driver,scaling_governor}",
    "sys/devices/system/cpu/cpufreq/policy*/{scaling_max_freq,scaling_min_freq}",
    "sys/firmware/acpi/platform_profile",
    "sys/firmware/efi/efivars/{BootChain,Rootfs}*-781e084c-a330-417c-b678-38e696380cb9",
    "sys/kernel/debug/bpmp/debug/clk/emc/{max_rate,min_rate,rate}",
    "sys/kernel/nvpmodel_clk_cap/*",
    "sys/kernel/realtime",
    "var/lib/nvpmodel/status",
)
"""What is recorded; of the words in braces, each one."""

_LINES = {"proc/stat": (b"cpu ", b"processes ")}
"""Of these only the lines that begin so: the sum of all processors, and how many processes were started."""


def record(root: Path = Path("/")) -> str:
    """The recording of a computer.

    Args:
        root: Of its file system.

    Returns:
        The text of the file; see the module.
    """
    name = model(root) or "a computer without a name"
    release = l4t_text(root)
    head = [
        f"# {name}{f', {release[2:]}' if release else ''}",
        "# Recorded with `python -m pi0_edge.board.record`.",
        "",
    ]
    return "\n".join([*head, *_entries(root), ""])


def entry(path: str, content: bytes | None) -> str:
    """The entry of one file.

    Args:
        path: With a slash in front.
        content: None where it fails to be read.
    """
    if content is None:
        return f"{path} fails"
    lines = content.split(b"\n")
    if len(lines) > 2 and lines[-2] and not lines[-1]:
        return "\n".join([f"{path}:", *(f"    {_escaped(line)}" if line else "" for line in lines[:-1])])
    if len(lines) == 2 and not lines[-1]:
        return f"{path} = {_escaped(lines[0])}"
    return f"{path} = {_escaped(content)}\\"


def _entries(root: Path) -> Iterator[str]:
    for path in sorted({path for pattern in PATTERNS for each in _each(pattern) for path in matching(root, each)}):
        relative = path.removeprefix(str(root)).lstrip("/")
        try:
            content = Path(path).read_bytes()
        except OSError:
            if Path(path).is_dir():
                continue
            yield entry(f"/{relative}", None)
            continue
        if relative == "proc/cpuinfo":  # the first processor
            content = content.partition(b"\n\n")[0].rstrip(b"\n") + b"\n"
        if relative in _LINES:
            content = b"".join(line for line in content.splitlines(keepends=True) if line.startswith(_LINES[relative]))
        yield entry(f"/{relative}", content)


def _each(pattern: str) -> Iterator[str]:
    """The pattern with each of the words in its braces."""
    before, brace, rest = pattern.partition("{")
    if not brace:
        yield pattern
        return
    words, _, after = rest.partition("}")
    yield from (f"{before}{word}{after}" for word in words.split(","))


def _escaped(content: bytes) -> str:
    """As text in which every byte can be told."""
    if content.endswith(b" "):
        return _escaped(content[:-1]) + "\\x20"
    found = []
    for character in content.decode(errors="surrogateescape"):
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:
            found.append(f"\\x{code - 0xDC00:02x}")
        elif character in "\\\0":
            found.append("\\\\" if character == "\\" else "\\0")
        elif (character.isprintable() or character == "\t") and not (0xD800 <= code <= 0xDFFF):
            found.append(character)
        else:
            found.append("".join(f"\\x{byte:02x}" for byte in character.encode()))
    return "".join(found)


if __name__ == "__main__":
    sys.stdout.write(record())
