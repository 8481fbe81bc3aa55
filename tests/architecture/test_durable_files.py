"""Law 9: what is written for later is written whole or not at all, by `pi0_edge.synced_files`."""

from __future__ import annotations

import ast
from pathlib import Path

from source_tree import modules, relative, syntax

WRITERS = {"write_text", "write_bytes", "copyfile", "savez", "savez_compressed", "replace", "rename"}
NOT_FOR_LATER = {
    "firmware_bridge/emulator/servo_bus/child.py": "a file of the emulator, gone with it",
    "firmware_bridge/firmware/generate_joints.py": "a source of the firmware, made by its Makefile",
    "firmware_bridge/firmware/uf2.py": "an image of the firmware, made by its Makefile",
    "firmware_bridge/lockstep/host_library.py": "sources of a library that is built again when it is missing",
    "firmware_bridge/lockstep/safety_table.py": "a page of the documentation, made from a checkout",
    "pi0_edge/demo/robot_simulation.py": "a camera file of a demonstration, gone with it",
    "pi0_edge/demo/run.py": "figures of a demonstration",
    "pi0_edge/demo/run_record.py": "figures of a demonstration",
    "pi0_edge/doctor/programs.py": "a program that is compiled to see whether it can be",
    "pi0_edge/deploy/fleet/inventory.py": "a file for ssh during one roll-out",
    "pi0_edge/deploy/fleet/plan.py": "files of one roll-out, gone with it; robots know what they run",
    "pi0_edge/deploy/installer/firmware_slot.py": "a count in /run, which a reboot forgets",
    "pi0_edge/deploy/transfer/rsync.py": "a list of names for rsync, gone with it",
    "pi0_edge/deploy/trust/verification.py": "copies for python-tuf, gone after the check",
    "pi0_edge/tensorrt/plan_cache.py": "a plan with its own checksum, built again when it is damaged",
    "pi0_edge/openvino/program_cache.py": "a program with its own checksum, written again when it is damaged",
    "protos/codegen/generate.py": "sources, made from a checkout",
}
"""Files that may write in another way, and why."""
WHOLE = {
    "pi0_edge/synced_files.py": "it is the one way",
    "pi0_edge/bundle/writing.py": "a whole folder takes its place at once; its files are in no place before",
    "pi0_edge/deploy/installer/garbage.py": "it moves what is deleted out of sight; nothing is written",
    "pi0_edge/deploy/installer/taking.py": "a whole folder takes its place at once",
    "pi0_edge/deploy/trust/publishing.py": "a whole folder takes its place at once",
    "pi0_edge/deploy/trust/rotation.py": "it renames keys that are on the disk, and does what was interrupted again",
    "pi0_edge/deploy/trust/trust_folder.py": "a whole folder takes its place at once",
    "pi0_edge/processing/recordings.py": "a temporary file, which `replace_synced` puts in its place",
    "pi0_edge/ptq/pipeline.py": "the report in a temporary folder, which `write_bundle` copies",
    "pi0_edge/cli/observation_files.py": "an archive in memory, which `save_synced` writes",
}
"""Files that write in one of these ways and lose nothing."""


def writes(path: Path) -> bool:
    """Whether a file calls something that writes or renames a file; `text.replace(old, new)` does neither."""
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITERS:
            of_files = node.func.attr != "replace" or ast.unparse(node.func.value) == "os"
            if of_files:
                return True
    return False


def test_whatever_is_written_for_later_survives_a_power_cut() -> None:
    found = {relative(path) for path in modules().values() if writes(path)}
    assert found == NOT_FOR_LATER.keys() | WHOLE.keys()
