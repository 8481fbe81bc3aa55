"""Makes every generated file of the repository's interfaces: `python -m pi0_edge.protos.codegen.generate [--check]`.

From the `.proto` files (through grpcio-tools) come `*_pb2.py`, `*_pb2.pyi` and `*_pb2_grpc.py`; from
`serial_link.yaml` come `protos/serial_link.py` and the C header of the firmware. `--check` writes nothing and exits
with 1 where a file on disk differs from what its source gives.

The gRPC files in the repository are made with grpcio-tools 1.76, because a stub refuses to be imported under a grpcio
older than the tool that made it. Another version of the tool spells the same interface differently, so under another
version `--check` compares the interface itself, which is the serialized descriptor in each `*_pb2.py`.

The interface is a promise (`compatibility.py`): what would break it is told, and then nothing is written.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2

from pi0_edge.protos.codegen.c_writer import write_c
from pi0_edge.protos.codegen.compatibility import (
    LOCK_FILE,
    broken_promises,
    interface_of,
    lock_text,
    read_lock,
)
from pi0_edge.protos.codegen.python_writer import write_python
from pi0_edge.protos.codegen.schema import load_schema

ROOT = Path(__file__).resolve().parents[2]
PROTO_FILES = tuple(f"pi0_edge/protos/{name}.proto" for name in ("policy", "bridge", "recording"))
SCHEMA_FILE = "pi0_edge/protos/serial_link.yaml"
PYTHON_FILE = "pi0_edge/protos/serial_link.py"
C_HEADER = "firmware_bridge/firmware/core/serial_link.h"

_STUB = re.compile(r"class \w+Stub\b")
"""What the gRPC file of a `.proto` file has where that has a service; others need none."""
_STAMP = re.compile(r"# Protobuf Python Version: .*|ValidateProtobufRuntimeVersion\([^)]*\)")


def generate_serial_link() -> dict[str, str]:
    """Return path (relative to the repository) to text for the two files of the serial link."""
    schema = load_schema(ROOT / SCHEMA_FILE)
    return {PYTHON_FILE: write_python(schema), C_HEADER: write_c(schema)}


def generate_grpc() -> dict[str, str]:
    """Return path to text for all files made from the `.proto` files; `RuntimeError` where protoc refuses them."""
    with tempfile.TemporaryDirectory() as folder:
        _run_protoc(ROOT, PROTO_FILES, *(f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")))
        made = sorted(path for path in Path(folder).rglob("*.py*") if path.is_file())
        texts = {path.relative_to(folder).as_posix(): path.read_text() for path in made}
        return {name: text for name, text in texts.items() if "_grpc" not in name or _STUB.search(text)}


def compiled(root: Path = ROOT, files: tuple[str, ...] = PROTO_FILES) -> descriptor_pb2.FileDescriptorSet:
    """The descriptors of `.proto` files; `RuntimeError` where protoc refuses them.

    Args:
        root: Folder that their imports are relative to.
        files: Their paths below it.
    """
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "descriptors"
        _run_protoc(root, files, f"--descriptor_set_out={written}")
        return descriptor_pb2.FileDescriptorSet.FromString(written.read_bytes())


def _run_protoc(root: Path, files: tuple[str, ...], *outputs: str) -> None:
    import grpc_tools
    from grpc_tools import protoc

    well_known = Path(grpc_tools.__file__).parent / "_proto"
    if protoc.main(["protoc", f"-I{root}", f"-I{well_known}", *outputs, *files]) != 0:
        raise RuntimeError("protoc refused a .proto file; its message is above")


def stale_files(texts: dict[str, str]) -> list[str]:
    """Return the paths whose file is missing or is not what its source gives."""
    return [name for name, text in texts.items() if not _is_current(name, text, texts)]


def _is_current(name: str, text: str, texts: dict[str, str]) -> bool:
    found = _read(ROOT / name)
    if found == text:
        return True
    stub = re.sub(r"_pb2(_grpc\.py|\.pyi?)$", "_pb2.py", name)
    other_tool = stub in texts and _STAMP.findall(_read(ROOT / stub)) != _STAMP.findall(texts[stub])
    return other_tool and bool(found) and (name != stub or _STAMP.sub("", found) == _STAMP.sub("", text))


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def main() -> int:
    """Write or check all generated files; the exit code is 1 where `--check` found a stale one."""
    parser = argparse.ArgumentParser(
        prog="python -m pi0_edge.protos.codegen.generate", description="Make all generated files."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file is stale")
    check = parser.parse_args().check
    present = interface_of(compiled().file)
    if broken := broken_promises(read_lock(ROOT), present):
        sys.stderr.write("".join(f"{sentence}\n" for sentence in broken))
        return 1
    texts = {**generate_serial_link(), **generate_grpc(), LOCK_FILE: lock_text(present)}
    stale = stale_files(texts)
    for name in stale:
        sys.stdout.write(f"{'stale' if check else 'writing'}: {name}\n")
        if not check:
            (ROOT / name).write_text(texts[name])
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
