"""The policy node and its peer as processes of the ROS environment, on loopback and in a domain of their own."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from source_tree import ROOT

PYTHON = os.environ.get("PI0_EDGE_ROS_PYTHON", str(ROOT / ".venv-ros" / "bin" / "python"))
"""An interpreter with rclpy: `tools/ros_environment.sh` makes one."""

PACKAGE = ROOT / "clients" / "pi0_edge_ros"
NODE = "pi0_edge_policy"
_ENDS_S = 10.0


@cache
def why_no_ros() -> str:
    """Why no node can be run here; empty where it can."""
    if not Path(PYTHON).is_file():
        return "no ROS 2: run tools/ros_environment.sh, or name an interpreter with rclpy in PI0_EDGE_ROS_PYTHON"
    needed = "import rclpy.lifecycle, sensor_msgs.msg, trajectory_msgs.msg, diagnostic_msgs.msg, std_srvs.srv, grpc"
    tried = subprocess.run([PYTHON, "-c", needed], capture_output=True, text=True, check=False, env=environment(0))
    return "" if tried.returncode == 0 else f"no ROS 2 in {PYTHON}: {tried.stderr.strip().splitlines()[-1]}"


def needs_ros() -> None:
    """Skips where there is no ROS."""
    if why := why_no_ros():
        pytest.skip(why)


def environment(domain: int, **more: str) -> dict[str, str]:
    """For a process of ROS, which finds only others of this machine and this domain."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROS_", "RMW_", "FASTDDS_"))}
    return {
        **kept,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{PACKAGE}",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_DOMAIN_ID": str(domain),
        "RCUTILS_COLORIZED_OUTPUT": "0",
        **more,
    }


def free_domain() -> int:
    """A domain that other tests on this machine do not use at the same time."""
    return 1 + os.getpid() % 100


class RosProcess:
    """A process of the ROS environment; its log is a file."""

    def __init__(self, argv: list[str], log: Path, domain: int, **more: str) -> None:
        self.log = log
        with log.open("wb") as written:
            self.process = subprocess.Popen(
                [PYTHON, "-u", *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=written,
                text=True,
                env=environment(domain, **more),
            )

    def stop(self) -> int:
        """Ends it as Ctrl-C or a service manager would; returns its exit code."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.terminate()
        try:
            return self.process.wait(_ENDS_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"a process of ROS did not end: {self.log.read_text()[-2000:]}") from None
        finally:
            self.process.stdout.close()


def start_node(folder: Path, domain: int, *parameters: str, **more: str) -> RosProcess:
    """The node; parameters are `NAME:=VALUE` in YAML."""
    given = [word for parameter in parameters for word in ("-p", parameter)]
    argv = ["-m", "pi0_edge_ros.node", "--ros-args", *given]
    return RosProcess(argv, folder / "node.log", domain, **more)


class Peer:
    """`ros_peer`, whose methods it has."""

    def __init__(self, folder: Path, domain: int, **more: str) -> None:
        program = str(Path(__file__).with_name("ros_peer.py"))
        self._running = RosProcess([program, NODE], folder / "peer.log", domain, **more)

    def __call__(self, do: str, **what: Any) -> Any:
        process = self._running.process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({"do": do, **what}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, self._running.log.read_text()
        answer = json.loads(line)
        assert "timeout" not in answer, (do, answer)
        return answer["answer"]

    def stop(self) -> None:
        self._running.stop()
