"""Serves the servo buses of an arm: `python -m firmware_bridge.emulator.servo_bus --arm so101`.

On start it prints one JSON line: `paths`, what to open or connect to by the name of the bus, and `control`, the UNIX
socket that takes faults and questions (see `control`). Ends on SIGINT or SIGTERM.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from firmware_bridge.emulator.control_socket import listen
from firmware_bridge.emulator.servo_bus.arms import ARMS
from firmware_bridge.emulator.servo_bus.server import BusServer
from firmware_bridge.emulator.servo_bus.settings import load_buses
from pi0_edge.errors import Pi0EdgeError


def main() -> int:
    """Serves; returns 1 after an error, which it prints."""
    parser = argparse.ArgumentParser(prog="python -m firmware_bridge.emulator.servo_bus", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--arm", choices=sorted(ARMS), help="a robot whose servos are known")
    source.add_argument("--buses", type=Path, help="JSON or YAML document with a list `buses`")
    parser.add_argument("--control", type=Path, help="unix socket to listen on for faults; a new one where not given")
    parser.add_argument("--goals", type=Path, help="file that receives when packets with goals have left")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="servo-bus-"))
    try:
        buses = ARMS[options.arm] if options.arm else load_buses(options.buses)
        control = options.control or folder / "control"
        goals = options.goals.open("wb", buffering=0) if options.goals else None
        server = BusServer(buses, listen(control), goals)
        sys.stdout.write(json.dumps({"paths": server.paths, "control": str(control)}) + "\n")
        sys.stdout.flush()
        server.run()
    except KeyboardInterrupt:
        return 0
    except (Pi0EdgeError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
