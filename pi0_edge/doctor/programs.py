"""Programs that build, run and check the firmware."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from pi0_edge.doctor.check import Check, Status, apt


def emulator() -> Check:
    """QEMU, which runs the firmware in demo and tests."""
    return _program("qemu-system-arm", "fail", apt("qemu-system-arm"))


def cross_compiler() -> Check:
    """The compiler of the firmware, with the C library that it needs."""
    fix = apt("gcc-arm-none-eabi", "libnewlib-arm-none-eabi")
    found = _program("arm-none-eabi-gcc", "fail", fix)
    flags = ("-mcpu=cortex-m3", "-mthumb", "--specs=nano.specs", "-ffreestanding", "-c")
    if found.status == "pass" and not _compiles("arm-none-eabi-gcc", "#include <string.h>\nint main;\n", flags):
        return Check(found.name, "fail", "found, but newlib is missing", fix)
    return found


def host_compiler() -> Check:
    """The compiler of the firmware's own tests, with its sanitizers."""
    fix = apt("gcc", "libc6-dev")
    found = _program("gcc", "fail", fix)
    flags = ("-fsanitize=address,undefined",)
    if found.status == "pass" and not _compiles("gcc", "#include <math.h>\nint main(void){return 0;}\n", flags):
        return Check(found.name, "fail", "found, but it cannot link with -fsanitize=address,undefined", fix)
    return found


def static_analysis() -> Check:
    """Cppcheck, which the tests run over the firmware."""
    return _program("cppcheck", "warn", apt("cppcheck"))


def unit_test_library() -> Check:
    """Cmocka, the library of the firmware's unit tests."""
    source = "#include <stdarg.h>\n#include <stddef.h>\n#include <setjmp.h>\n#include <stdint.h>\n#include <cmocka.h>\n"
    if shutil.which("gcc") and _compiles("gcc", f"{source}int main(void){{return 0;}}\n", ("-lcmocka",)):
        return Check("cmocka", "pass", "gcc links with it")
    return Check("cmocka", "warn", "not installed", apt("libcmocka-dev"))


def _program(name: str, status_if_missing: Status, fix: str) -> Check:
    path = shutil.which(name)
    if path is None:
        return Check(name, status_if_missing, "not installed", fix)
    try:
        output = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Check(name, status_if_missing, f"{path} does not run: {error}", fix)
    return Check(name, "pass", output.splitlines()[0] if output else path)


def _compiles(compiler: str, source: str, flags: tuple[str, ...]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "probe.c"
        file.write_text(source)
        argv = [compiler, str(file), *flags, "-o", str(file.with_suffix(".out"))]
        try:
            return subprocess.run(argv, capture_output=True, timeout=60, check=False).returncode == 0
        except (OSError, subprocess.SubprocessError):
            return False
