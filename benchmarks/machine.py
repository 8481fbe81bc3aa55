"""What a measurement has to say about the machine it ran on."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path

import torch


def describe_machine() -> dict[str, str]:
    """Processor, cores, memory, versions and the date."""
    features = [name for name in ("avx2", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8") if _has(name)]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "processor": _processor(),
        "cores": f"{os.cpu_count()} ({torch.get_num_threads()} used by torch)",
        "features": " ".join(features),
        "memory": f"{memory / 1e9:.1f} GB",
        "software": f"Python {platform.python_version()}, torch {torch.__version__}",
    }


def _has(feature: str) -> bool:
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get(feature, False))


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
