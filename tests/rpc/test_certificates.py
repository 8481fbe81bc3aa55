"""`pi0-edge certificates`: folders that TLS accepts, one line for each mistake; both servers with certificates."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import grpc
import pytest
from cli_runner import run
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from pi0_edge.certificates import read_certificate
from pi0_edge.protos.rpc.roles import Role, role_of
from pi0_edge.protos.rpc.server import GuardedServer
from pi0_edge.protos.rpc.tls import open_channel


@pytest.fixture
def home(tmp_path: Path) -> Path:
    assert run("certificates", "authority", tmp_path / "home", "--name", "lab").code == 0
    return tmp_path / "home"


def test_certificates_of_the_commands_connect(home: Path, tmp_path: Path):
    robot, button = tmp_path / "robot", tmp_path / "button"
    made = run("certificates", "server", home, robot, "--host", "localhost", "--host", "127.0.0.1", "--json")
    assert made.result == {"folder": str(robot), "name": "robot", "hosts": ["localhost", "127.0.0.1"], "days": 365}
    made = run("certificates", "client", home, button, "--role", "estop", "--name", "red button", "--json")
    assert made.result == {"folder": str(button), "name": "red button", "role": "estop", "days": 365}
    server = GuardedServer(
        "any", tls=robot, observing_streams=1, commanding=1, message_limit=1000, registry=CollectorRegistry()
    )
    port = server.bind("127.0.0.1:0")
    server.set_health(serving=True)
    server.start()
    try:
        for host in ("localhost", "127.0.0.1"):
            with open_channel(f"{host}:{port}", button) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                request = health_pb2.HealthCheckRequest()
                reply = health.Check(request, timeout=10)  # pyright: ignore[reportAttributeAccessIssue]
                assert reply.status == health_pb2.HealthCheckResponse.SERVING
                with pytest.raises(grpc.RpcError, match="'red button' has the role estop"):
                    next(health.Watch(request, timeout=10))  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        server.stop(0)


def test_a_certificate_contains_its_name_role_and_dates(home: Path, tmp_path: Path):
    run("certificates", "client", home, tmp_path / "planner", "--role", "command", "--days", "30")
    shown = run("certificates", "show", tmp_path / "planner", "--json").result
    assert {name: shown[name] for name in ("name", "kind", "role", "hosts", "authority")} == {
        "name": "planner",
        "kind": "client",
        "role": "command",
        "hosts": [],
        "authority": "lab",
    }
    facts = read_certificate(tmp_path / "planner" / "certificate.pem")
    assert (facts.ends - facts.begins).days == 30
    assert run("certificates", "show", home, "--json").result["kind"] == "authority"


def test_keys_are_for_their_owner_only(home: Path, tmp_path: Path):
    run("certificates", "client", home, tmp_path / "planner", "--role", "command")
    for key in (home / "authority.key.pem", tmp_path / "planner" / "key.pem"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not (tmp_path / "planner" / "authority.key.pem").exists()


def test_openssl_accepts_the_chain(home: Path, tmp_path: Path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    run("certificates", "server", home, tmp_path / "robot", "--host", "robot.local")
    run("certificates", "client", home, tmp_path / "planner", "--role", "command")
    for purpose, folder in (("sslserver", "robot"), ("sslclient", "planner")):
        argv = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", str(home / "authority.pem")]
        ran = subprocess.run([*argv, str(tmp_path / folder / "certificate.pem")], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_mistakes_in_certificate_commands_are_reported_in_one_line(home: Path, tmp_path: Path):
    planner = tmp_path / "planner"
    run("certificates", "client", home, planner, "--role", "command")
    cases = {
        "authority.key.pem cannot be read": ("client", planner, tmp_path / "a", "--role", "command"),
        "exists already, and is never overwritten": ("client", home, planner, "--role", "command"),
        "neither an address nor a host name": ("server", home, tmp_path / "b", "--host", "rücken"),
        "expected 1 to 64 characters": ("client", home, tmp_path / "c", "--role", "command", "--name", "x" * 65),
        "authority.pem cannot be read": ("show", tmp_path / "nowhere"),
    }
    for message, arguments in cases.items():
        ran = run("certificates", *arguments)
        assert ran.code == 2
        assert message in ran.err and len(ran.err.splitlines()) == 1, ran.err
    (home / "authority.pem").write_text("no certificate")
    assert "is not a certificate in PEM" in run("certificates", "client", home, tmp_path / "d", "--role", "estop").err
    assert "expected one of estop, observe, command" in run("certificates", "client", home, "e", "--role", "king").err
    assert run("certificates", "authority", home).code == 2


def test_only_certificate_names_of_our_form_give_a_role():
    assert role_of([]) == role_of(["localhost", "https://role/command", "pi0-edge://role/king"]) == Role.ESTOP
    assert role_of(["pi0-edge://role/command"]) == Role.COMMAND
    assert role_of([role.uri for role in Role]) == Role.ESTOP  # the least where there are several
