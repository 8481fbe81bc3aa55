"""What stands in for a robot: emulated board and servos, bridge, and a simulated table with a camera over RTSP.

It plays nothing: `pi0-edge run` does, as with any other robot. The arms of the simulation stand where the servo bus
measured them, and the camera shows that. For the next cube the arms are brought home through the bridge, as another
client of it would do.
"""

from __future__ import annotations

import contextlib
import queue
import shlex
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from firmware_bridge.client import BridgeClient, Tick
from firmware_bridge.emulator.processes import Child, start_firmware
from firmware_bridge.errors import StateError
from firmware_bridge.robot import ACTIVE_STATES
from pi0_edge.demo.rtsp_camera import RtspCamera
from pi0_edge.demo.tick_follower import TickFollower, glide_home, ready_arm
from pi0_edge.protos.rpc.listen import BRIDGE_LISTEN
from pi0_edge.sim.aloha import CONTROL_HZ
from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube

SIDE = 112
"""Pixels of the square image, as the shipped policy was trained on."""

EVERY_TICKS = 2
FPS = CONTROL_HZ // EVERY_TICKS
MOST_BEHIND = 10
"""Ticks that may wait: with more of them no image is drawn, so that the table catches up."""

CAMERA = "top"
PROMPT = "Transfer cube"
CUBE_SETTLES_TICKS = 5


@dataclass(frozen=True)
class Cube:
    """What became of one cube.

    Attributes:
        seed: Of its pose.
        transferred_s: Seconds from the arm's first movement until the left gripper held it; None if it never did.
    """

    seed: int
    transferred_s: float | None


class SimulatedTable:
    """The table with the arms, as measured tick by tick, and its camera.

    Attributes:
        cubes: Those before the present one.
    """

    def __init__(self, bridge: BridgeClient, follower: TickFollower, camera: RtspCamera, seed: int) -> None:
        self.cubes: list[Cube] = []
        self._bridge = bridge
        self._follower = follower
        self._camera = camera
        self._seed = seed
        self._began: Tick | None = None
        self._transferred_s: float | None = None
        self._lay_cube()

    @property
    def cube(self) -> Cube:
        """The present one."""
        return Cube(self._seed, self._transferred_s)

    def advance(self) -> Tick:
        """Follows one tick, and shows the table when an image is due.

        Raises:
            LinkError: No tick comes.
            CameraError: The camera's server has ended.
        """
        tick = self._follower.advance()
        if self._began is None and tick.state in ACTIVE_STATES:
            self._began = tick
        if self._transferred_s is None and self._began is not None and self._follower.env.success:
            self._transferred_s = (tick.tick - self._began.tick) / CONTROL_HZ
        if tick.tick % EVERY_TICKS == 0 and self._follower.behind < MOST_BEHIND:
            self._camera.show(self._follower.env.render("top", SIDE, SIDE))
        return tick

    def next_cube(self) -> None:
        """Brings the arms home and lays the next cube.

        Raises:
            StateError: Somebody else moves the arm.
            BridgeError: The bridge does not answer.
        """
        status = self._bridge.status()
        if status.state in ACTIVE_STATES:
            raise StateError(f"{status.owner or 'somebody'} moves the arm; wait until it is disarmed")
        ready_arm(self._bridge, self._follower)
        with self._bridge.play() as stream:
            glide_home(stream, self._follower)
        self._bridge.disarm("at home for the next cube")
        while self._follower.advance().state in ACTIVE_STATES:
            pass
        self.cubes.append(self.cube)
        self._seed += 1
        self._lay_cube()

    def _lay_cube(self) -> None:
        self._follower.env.reset(self._seed)
        self._began, self._transferred_s = None, None
        for _ in range(CUBE_SETTLES_TICKS):
            self.advance()


def simulate_robot(
    folder: Path,
    say: Callable[[str], None],
    wishes: TextIO,
    *,
    listen: str = BRIDGE_LISTEN,
    camera_port: int = 8554,
    first_seed: int = 0,
) -> list[Cube]:
    """Stands in for a robot until Ctrl-C.

    Args:
        folder: Gets `cameras.yaml` and the logs of the processes.
        say: Told what happens, one line at a time.
        wishes: Each line asks for the next cube.
        listen: host:port of the bridge.
        camera_port: Of the camera, on loopback; every robot needs its own.
        first_seed: Of the first cube; each further one counts up.

    Returns:
        What became of each cube.

    Raises:
        MissingDependencyError: QEMU, GStreamer or the simulation are not installed.
        EngineError: A process ends.
        CameraError: The camera's server does not start, or ends.
        BridgeError: The bridge does not answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        camera = stack.enter_context(RtspCamera(camera_port, CAMERA, SIDE, SIDE, FPS))
        *children, address = start_firmware(stack, folder, listen)
        bridge = stack.enter_context(BridgeClient(address, name="simulated robot"))
        env = AlohaTransferCube()
        stack.callback(env.close)
        env.render("top", SIDE, SIDE)  # makes the OpenGL context before time matters
        follower = TickFollower(env, stack.enter_context(bridge.telemetry()))
        table = SimulatedTable(bridge, follower, camera, first_seed)
        say(f"ready; in another terminal:\n\n  {command_of_run(_write_cameras(folder, camera.url), address)}\n")
        with contextlib.suppress(KeyboardInterrupt):
            _show(table, children, _lines(wishes), say)
        return [*table.cubes, table.cube]


def command_of_run(cameras: Path, bridge: str) -> str:
    """What plays the shipped policy on this robot."""
    where = [] if bridge == BRIDGE_LISTEN else ["--bridge", bridge]
    what = ["--prompt", PROMPT, "--threads", "1", "--seconds", "20"]  # one thread: the emulator needs a processor too
    return shlex.join(["pi0-edge", "run", "aloha_sim", "--cameras", str(cameras), *where, *what])


def _show(
    table: SimulatedTable, children: list[Child], wishes: queue.SimpleQueue[None], say: Callable[[str], None]
) -> None:
    """Follows the firmware for ever."""
    told = False
    say(f"cube {table.cube.seed} lies on the table; Enter brings the next one, Ctrl-C ends")
    while True:
        tick = table.advance()
        cube = table.cube
        if cube.transferred_s is not None and not told:
            told = True
            say(f"cube {cube.seed} transferred after {cube.transferred_s:.1f} s")
        if not wishes.empty():
            wishes.get()
            try:
                table.next_cube()
            except StateError as refusal:
                say(f"no next cube: {refusal}")
            else:
                told = False
                say(f"cube {table.cube.seed} lies on the table")
        if tick.tick % CONTROL_HZ == 0:
            for child in children:
                child.check_alive()


def _write_cameras(folder: Path, url: str) -> Path:
    """The cameras file: rendered images may repeat, and a busy machine may be late with one."""
    file = folder / "cameras.yaml"
    file.write_text(f"{CAMERA}: {{source: '{url}', fps: {FPS}, may_repeat: true, max_age_s: 0.5}}\n")
    return file


def _lines(stream: TextIO) -> queue.SimpleQueue[None]:
    """One entry for each line of a stream, read by a thread."""
    entries: queue.SimpleQueue[None] = queue.SimpleQueue()

    def read() -> None:
        for _ in stream:
            entries.put(None)

    threading.Thread(target=read, name="lines", daemon=True).start()
    return entries
