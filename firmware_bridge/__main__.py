"""`python -m firmware_bridge --port /dev/ttyUSB0`: the bridge on a machine without torch or the command line."""

import argparse
import logging
import sys
from pathlib import Path

from firmware_bridge.bridge.server import serve_bridge
from firmware_bridge.splice import HoldSwap
from pi0_edge.errors import Pi0EdgeError
from pi0_edge.protos.rpc.json_log import log_as_json
from pi0_edge.protos.rpc.listen import BRIDGE_LISTEN


def main() -> int:
    """Runs the bridge until SIGINT or SIGTERM; returns 1 after an error, which it prints."""
    parser = argparse.ArgumentParser(prog="python -m firmware_bridge", description="Bridge from gRPC to the firmware.")
    parser.add_argument("--port", required=True, help="serial device, pseudo-terminal or socket://host:port")
    parser.add_argument("--listen", default=BRIDGE_LISTEN, help="host:port (default: %(default)s)")
    parser.add_argument(
        "--robot", default="aloha", help="robot by name, or the path of its file (default: %(default)s)"
    )
    parser.add_argument("--baud", type=int, default=921600, help="bits per second (default: %(default)s)")
    parser.add_argument("--tls", type=Path, metavar="FOLDER", help="ask every client for a certificate")
    parser.add_argument("--metrics-port", type=int, metavar="PORT", help="figures for Prometheus, on loopback")
    parser.add_argument("--log-json", action="store_true", help="log as JSON lines")
    parser.add_argument("--splice", default=HoldSwap.name, help="how a chunk enters (default: %(default)s)")
    parser.add_argument(
        "--workspace", type=Path, metavar="FILE", help="refuse chunks that leave the boxes of this file"
    )
    options = parser.parse_args()
    if options.log_json:
        log_as_json()
    else:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        serve_bridge(
            options.port,
            options.listen,
            options.robot,
            baud=options.baud,
            splice=options.splice,
            workspace=options.workspace,
            tls=options.tls,
            metrics_port=options.metrics_port,
        )
    except Pi0EdgeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
