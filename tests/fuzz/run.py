"""Fuzzes both ends of the serial link, and what clients send: `make fuzz`, or `run.py --target NAME`.

`frames` and `messages` are the C core, `servos` the packets of servos, under libFuzzer, AddressSanitizer and
UndefinedBehaviorSanitizer (clang-14 and libclang-rt-14-dev); `framing`, `openpi`, `lerobot` and `policy` are the Python
decoders under Atheris (the extra `fuzz`). Each starts from its corpus (`corpus/NAME.hex`, one input a line) and says
how many inputs it ran in its `--seconds`. `--keep` adds what was found to the corpus, as few inputs as reach the same
code. An input that breaks something is left in the folder that is named.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIRMWARE = HERE.parents[1] / "firmware_bridge" / "firmware"
LONGEST_INPUT = {
    "frames": 600,
    "messages": 200,
    "servos": 400,
    "framing": 600,
    "openpi": 2000,
    "lerobot": 2000,
    "policy": 2000,
}
IN_PYTHON = ("framing", "openpi", "lerobot", "policy")
KEPT_BYTES = 24_000  # of inputs in one corpus


def command_of(target: str) -> list[str]:
    """The program of a target; it is built if it is needed."""
    if target in IN_PYTHON and importlib.util.find_spec("atheris") is None:
        sys.exit("atheris is missing: pip install 'pi0-edge[fuzz]'")
    if target in IN_PYTHON:
        return [sys.executable, str(HERE / f"fuzz_{target}.py")]
    if shutil.which("clang-14") is None:
        sys.exit("clang-14 is missing: apt-get install --no-install-recommends clang-14 libclang-rt-14-dev")
    subprocess.run(["make", "-s", "-C", str(FIRMWARE), f"build/fuzz/{target}"], check=True)
    return [str(FIRMWARE / "build" / "fuzz" / target)]


def read_corpus(target: str) -> list[bytes]:
    """The inputs of a target."""
    path = HERE / "corpus" / f"{target}.hex"
    return [bytes.fromhex(line) for line in path.read_text().splitlines()] if path.exists() else []


def unpack(inputs: list[bytes], folder: Path) -> None:
    """Writes one file for each input, as libFuzzer needs them."""
    folder.mkdir()
    for number, data in enumerate(inputs):
        (folder / f"{number:04}").write_bytes(data)


def keep(command: list[str], target: str, found: Path, folder: Path) -> None:
    """Writes the smallest inputs with the same coverage as those found, up to `KEPT_BYTES`."""
    merged = folder / "merged"
    merged.mkdir()
    subprocess.run([*command, "-merge=1", str(merged), str(found)], check=True, stderr=subprocess.DEVNULL)
    kept = merged if any(merged.iterdir()) else found  # Atheris 3.0 merges nothing
    inputs = sorted((path.read_bytes() for path in kept.iterdir()), key=lambda data: (len(data), data))
    lines, size = [], 0
    for data in inputs:
        size += len(data)
        if size <= KEPT_BYTES:
            lines.append(data.hex() + "\n")
    (HERE / "corpus" / f"{target}.hex").write_text("".join(lines))


def fuzz(target: str, seconds: int, keep_found: bool) -> bool:
    """Runs one target; returns whether it found no fault."""
    command = command_of(target)
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{target}-"))
    found = folder / "corpus"
    unpack(read_corpus(target), found)
    limits = [f"-max_total_time={seconds}", f"-max_len={LONGEST_INPUT[target]}", f"-artifact_prefix={folder}/"]
    argv = ["nice", "-n", "10", *command, *limits, "-timeout=30", "-print_final_stats=1", str(found)]
    ran = subprocess.run(argv, stderr=subprocess.PIPE, text=True, check=False)
    executed = re.search(r"number_of_executed_units: (\d+)", ran.stderr)
    print(f"{target}: {int(executed[1]) if executed else 0:,} inputs in {seconds} s, exit code {ran.returncode}")
    if ran.returncode != 0:
        print(f"{ran.stderr[-4000:]}\nthe input is in {folder}")
        return False
    if keep_found:
        keep(command, target, found, folder)
    shutil.rmtree(folder)
    return True


def main() -> int:
    """Runs the targets in turn; returns 1 if one found a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=sorted(LONGEST_INPUT), action="append")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--keep", action="store_true", help="add what was found to the corpus")
    options = parser.parse_args()
    intact = [fuzz(target, options.seconds, options.keep) for target in options.target or LONGEST_INPUT]
    return 0 if all(intact) else 1


if __name__ == "__main__":
    sys.exit(main())
