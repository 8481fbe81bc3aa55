"""What each client of `benchmarks.ways_in` shares: the observation that it sends, and how it is told to ask.

A client is a program of its own, in any language. It is called with its way, the address of the server and the names of
the robot's cameras and joints, each list with commas. It prints `ready` with what it is, then reads lines of its
standard input: each is a number of requests, and is answered with a line of JSON:

    {"ms": [4.1, ...], "client_ms": 3.0, "bytes": 1843400}

`ms` has the time of each request, from an observation in memory to its actions as numbers in memory; `client_ms` is the
time of the client's processors for one request, and `bytes` the size of one observation on the wire.

This module needs numpy alone, so that it runs in an interpreter with LeRobot too.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 480, 640
NOISE = 3.0
"""Levels of noise (standard deviation), as a real sensor has: without it a JPEG is far too small."""

PROMPT = "Transfer cube"

PAUSE_S = 0.005
"""Between two requests: a robot asks seldom, and the server limits the calls of one peer."""

Pixels = NDArray[np.uint8]


def pictures(cameras: int) -> list[list[Pixels]]:
    """Four moments of some cameras, each uint8 [480, 640, 3]; one after the other is sent."""
    return [[_picture(4 * camera + moment) for camera in range(cameras)] for moment in range(4)]


def _picture(seed: int) -> Pixels:
    """Blocks of colours with soft edges and the noise of a sensor."""
    random = np.random.default_rng(seed)
    coarse = random.integers(30, 220, (HEIGHT // 40, WIDTH // 40, 3)).astype(np.float64)
    smooth = coarse.repeat(40, axis=0).repeat(40, axis=1) + np.linspace(-20, 20, WIDTH)[None, :, None]
    return np.clip(smooth + random.normal(0, NOISE, smooth.shape), 0, 255).astype(np.uint8)


def answer_blocks(name: str, ask: Callable[[int], NDArray[np.floating]], size: int) -> None:
    """Asks as often as each line of the standard input says.

    Args:
        name: Of the client, with its version.
        ask: Makes the request of a number, and returns the chunk, [rows, width].
        size: Bytes of one observation on the wire.
    """
    print(f"ready {name}", flush=True)
    numbers = itertools.count()
    for line in sys.stdin:
        took_ms = []
        worked_s = time.process_time()
        for _ in range(int(line)):
            time.sleep(PAUSE_S)
            number = next(numbers)
            begin = time.perf_counter()
            chunk = ask(number)
            took_ms.append(round(1e3 * (time.perf_counter() - begin), 4))
            if chunk.ndim != 2 or not np.isfinite(chunk).all():
                raise SystemExit(f"{name} got no chunk: {chunk.shape}")
        worked_ms = 1e3 * (time.process_time() - worked_s) / max(1, len(took_ms))
        print(json.dumps({"ms": took_ms, "client_ms": round(worked_ms, 4), "bytes": size}), flush=True)
