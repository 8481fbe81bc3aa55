"""The messages on `docs/wire.md`, and the description of the interface that its client reads."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory, text_format

from pi0_edge.protos import bridge_pb2, policy_pb2  # noqa: F401  # fill the pool

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "wire.md"
CLIENT = ROOT / "examples" / "python" / "wire_client.py"
_BLOCK = re.compile(
    r"```textproto\n# (?P<kind>\w+): (?P<method>\w+/\w+)(?: = (?P<status>\w+))?\n(?P<text>.*?)```", re.DOTALL
)


@dataclass(frozen=True)
class Shown:
    """One message of the page.

    Attributes:
        method: Service and method.
        status: What its call ends with.
        message: The message.
        after: What the page shows as a plain text behind it.
    """

    method: str
    status: str
    message: Any
    after: str


def shown(service: str) -> list[Shown]:
    """The messages for one service, in the order of the page; one that does not parse is an error."""
    page = PAGE.read_text()
    assert page.count("```textproto") == len(list(_BLOCK.finditer(page)))
    found = []
    for block in _BLOCK.finditer(page):
        if block["method"].startswith(service):
            kind = descriptor_pool.Default().FindMessageTypeByName(f"pi0_edge.v1.{block['kind']}")
            message = text_format.Parse(block["text"], message_factory.GetMessageClass(kind)())
            behind = re.match(r"\s*```text\n(.*?)\n```", page[block.end() :], re.DOTALL)
            found.append(Shown(block["method"], block["status"] or "OK", message, behind[1] if behind else ""))
    return found


def send(channel: grpc.Channel, method: str, message: Any) -> tuple[str, Any]:
    """Status, and the answer or the words of the refusal; of a stream of answers the first."""
    service, _, name = method.partition("/")
    described = descriptor_pool.Default().FindServiceByName(f"pi0_edge.v1.{service}").FindMethodByName(name)
    kinds = ("unary", "stream")
    open_call = getattr(channel, f"{kinds[described.client_streaming]}_{kinds[described.server_streaming]}")
    read = message_factory.GetMessageClass(described.output_type).FromString
    call = open_call(f"/pi0_edge.v1.{method}", type(message).SerializeToString, read)
    try:
        answer = call(iter([message]) if described.client_streaming else message, timeout=20)
        return "OK", next(answer) if described.server_streaming else answer
    except grpc.RpcError as error:
        return error.code().name, error.details()  # pyright: ignore[reportAttributeAccessIssue]


def run_client(folder: Path, *addresses: str) -> str:
    """What the client of the page prints, with a description that protoc makes and no pi0-edge to import."""
    wanted = folder / "wire.desc"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--include_imports", f"--descriptor_set_out={wanted}"]
    subprocess.run([*command, "pi0_edge/protos/bridge.proto"], cwd=ROOT, check=True)
    hidden = "import sys, runpy; sys.modules['pi0_edge'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    argv = [sys.executable, "-P"] if sys.version_info >= (3, 11) else [sys.executable]
    argv += ["-c", hidden, str(CLIENT), str(wanted), *addresses]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
