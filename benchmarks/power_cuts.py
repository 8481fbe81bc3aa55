"""What is left after a power cut at any moment: every write of a real disk is recorded, and cut.

    sudo python -m benchmarks.power_cuts [--cuts 150] [--seed 0] [--only gc]

Each subject runs once on an ext4 file system whose writes and flushes are recorded, while another program synchronizes
a file of its own. Then the file system is mounted as it would be after a cut: every write before the last flush is
there, and of those after it all, none, any subset, or all with the last torn between two sectors. What is found must be
whole: every byte of every installed release and bundle, the slots, the journal, the trusted metadata. After every cut
but those that `--go-on-every` leaves out the same command runs again, and must end as it would have.

It needs root, qemu-storage-daemon, FUSE and loop devices.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.machine import describe_machine

sys.path.append(str(Path(__file__).parents[1] / "tests" / "apparatus"))

from bundle_builders import small_inputs
from cut_bundles import bundle_subjects
from cut_flashes import flash_subjects
from cut_subject import Subject
from flashed_disk import Signed, healthy_programs
from power_cuts import Cuts, why_no_recorder

from pi0_edge.bundle import write_key_pair


def all_subjects(folder: Path) -> Iterator[Subject]:
    """What is cut, with the files that it needs in a folder."""
    for name in ("workstation", "bundle"):
        (folder / name).mkdir()
    yield from flash_subjects(Signed(folder / "workstation"))
    private_key = folder / "private.pem"
    write_key_pair(private_key, folder / "public.pem")
    yield from bundle_subjects(small_inputs(folder / "bundle"), private_key)


def row(subject: Subject, cuts: Cuts, seconds: float) -> str:
    """A line of the table."""
    seen = ", ".join(f"{word} {count}" for word, count in sorted(cuts.good.items()))
    unseen = "".join(f", {word} 0" for word in sorted(subject.words - cuts.good.keys()))
    count = cuts.good.total() + len(cuts.torn)
    cells = (subject.name, count, len(cuts.torn), cuts.writes, cuts.flushes, f"{seconds:.0f}", seen + unseen)
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> int:
    """Prints the table; fails where anything was torn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=150, help="of each subject")
    parser.add_argument("--seed", type=int, default=0, help="fixes the moments")
    parser.add_argument("--go-on-every", type=int, default=1, help="after each of so many cuts the command runs again")
    parser.add_argument("--only", default="", help="subjects whose name has this in it")
    options = parser.parse_args()
    if reason := why_no_recorder():
        parser.error(reason)
    for name, text in describe_machine().items():
        print(f"* {name}: {text}")
    print("\n| subject | cuts | torn | writes | flushes | seconds | states seen |")
    print("|---|---:|---:|---:|---:|---:|---|")
    total, torn = 0, []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(healthy_programs())
        for subject in all_subjects(folder):
            if options.only not in subject.name:
                continue
            begin = time.monotonic()
            cuts = subject.cut(options.cuts, options.go_on_every, options.seed)
            print(row(subject, cuts, time.monotonic() - begin), flush=True)
            total += cuts.good.total() + len(cuts.torn)
            torn += cuts.torn
    print(f"\n{len(torn)} torn of {total} cuts")
    for line in torn:
        print(f"* {line}")
    return 1 if torn else 0


if __name__ == "__main__":
    sys.exit(main())
