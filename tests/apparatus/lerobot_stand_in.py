"""LeRobot's message classes under their real names, in a Python process of their own that pickles and unpickles them.

The classes are written into a throw-away folder, so the pickles are byte for byte those of a stock client with this
machine's Python and numpy. Nothing is unpickled in the process of the tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

MODULES = ("lerobot.async_inference.helpers", "lerobot.scripts.server.helpers")

CLASSES = """
from dataclasses import dataclass, field
from typing import Any

@dataclass
class RemotePolicyConfig:
    policy_type: str
    pretrained_name_or_path: str
    lerobot_features: dict
    actions_per_chunk: int
    device: str = "cpu"
    rename_map: dict = field(default_factory=dict)

@dataclass
class TimedData:
    timestamp: float
    timestep: int

@dataclass
class TimedAction(TimedData):
    action: Any

@dataclass
class TimedObservation(TimedData):
    observation: dict
    must_go: bool = False
"""

_WRITE = """
import importlib, json, os, pickle, sys
import numpy as np
folder, joints = sys.argv[1], json.loads(sys.argv[2])
features = {
    "observation.state": {"dtype": "float32", "shape": (len(joints),), "names": [f"{joint}.pos" for joint in joints]},
    "observation.images.top": {"dtype": "image", "shape": (48, 64, 3), "names": ["height", "width", "channels"]},
}
image = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
values = {f"{joint}.pos": place / 10 for place, joint in enumerate(joints)}
values |= {"top": image, "task": "Transfer cube"}
odd = {"f4": np.float32(0.5), "i8": np.int64(-7), "b1": np.bool_(True), "empty": np.zeros((0, 3)), "big": 2**40,
       "fortran": np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)), "view": image[::2, ::2],
       "list": [1, (2.5,)], "half": np.arange(3, dtype=np.float16), "0d": np.array(3.0), "none": None}
class Runs:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments
    def __reduce__(self):
        return self.call, self.arguments
canary = os.path.join(folder, "canary")
hostile = {
    "system": Runs(os.system, f"touch {canary}"),
    "eval": Runs(eval, f"open({canary!r}, 'w')"),
    "open": Runs(open, canary, "w"),
    "loads": Runs(pickle.loads, pickle.dumps(Runs(os.system, f"touch {canary}"))),
    "getattr": Runs(getattr, "text", "upper"),
    "object_array": np.array([Runs(os.system, f"touch {canary}")], dtype=object),
    "structured": np.zeros(2, dtype=[("a", "i4"), ("b", "O")]),
    "void": np.zeros(2, "V8"), "text": np.array(["ab"]), "date": np.array([1], "M8[s]"), "complex": np.zeros(1, "c8"),
    "set": {1}, "module": sys.exit, "class": Exception("x"), "slice": slice(1), "record": None,
}
for place, module in enumerate(sys.argv[3:]):
    own = importlib.import_module(module)
    hostile["record"] = own.TimedAction(1.0, 2, 3)
    for protocol in range(2, 6):
        def write(name, value):
            with open(os.path.join(folder, f"{name}-{protocol}-{place}.pickle"), "wb") as file:
                file.write(pickle.dumps(value, protocol))
        write("config", own.RemotePolicyConfig("pi0", "user/model", features, 50))
        write("observation", own.TimedObservation(12.5, 0, values, True))
        write("odd", own.TimedObservation(12.5, 3, odd))
        for name, value in hostile.items():
            write(f"hostile_{name}", own.TimedObservation(1.0, 0, {**values, "x": value}))
            write(f"hostilebare_{name}", value)
"""

_READ = """
import json, pickle, sys
for line in sys.stdin:
    rows = []
    for action in pickle.loads(bytes.fromhex(line)):
        tensor = action.action
        rows.append({"class": f"{type(action).__module__}.{type(action).__name__}", "timestamp": action.timestamp,
                     "timestep": action.timestep, "dtype": str(tensor.dtype), "device": tensor.device.type,
                     "values": [tensor[i].item() for i in range(len(tensor))], "fields": sorted(vars(action)),
                     "merged": (0.3 * tensor + 0.7 * tensor).tolist()})
    print(json.dumps(rows), flush=True)
"""


class LerobotStandIn:
    """Pickles of a stock client.

    Attributes:
        folder: Holds the vectors: NAME-PROTOCOL-PLACE.pickle, where PLACE is that of the module in `MODULES`.
        canary: Exists where a hostile pickle was executed.
    """

    def __init__(self, folder: Path, joints: list[str]) -> None:
        self.folder = folder / "vectors"
        self.canary = self.folder / "canary"
        self._code = folder / "code"
        self.folder.mkdir(parents=True)
        for module in MODULES:
            path = self._code.joinpath(*module.split(".")).with_suffix(".py")
            path.parent.mkdir(parents=True)
            path.write_text(CLASSES)
        command = [sys.executable, "-c", _WRITE, str(self.folder), json.dumps(joints), *MODULES]
        done = subprocess.run(command, cwd=self._code, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        self._reader = subprocess.Popen(
            [sys.executable, "-c", _READ], cwd=self._code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def close(self) -> None:
        """Ends the process that reads replies."""
        self._reader.communicate(timeout=10)

    def vector(self, name: str, protocol: int = 4, place: int = 0) -> bytes:
        """One pickle."""
        return (self.folder / f"{name}-{protocol}-{place}.pickle").read_bytes()

    def vectors(self, begin: str) -> dict[str, bytes]:
        """All pickles whose names begin so."""
        return {path.stem: path.read_bytes() for path in sorted(self.folder.glob(f"{begin}*.pickle"))}

    def read_reply(self, reply: bytes) -> list[dict[str, Any]]:
        """What a client gets from a reply, with the real pickle and the real torch."""
        assert self._reader.stdin is not None
        assert self._reader.stdout is not None
        self._reader.stdin.write(reply.hex() + "\n")
        self._reader.stdin.flush()
        return json.loads(self._reader.stdout.readline())
