"""Asks a policy server for chunks: `ask_policy.py ADDRESS COUNT`, prints how many came; 0 asks until it is ended."""

from __future__ import annotations

import itertools
import sys
import time

from policy_builders import observation

from pi0_edge.errors import ServingError
from pi0_edge.serving.policy_client import PolicyClient


def main() -> None:
    address, count = sys.argv[1], int(sys.argv[2])
    made = 0
    for tick in itertools.count(1):
        try:
            with PolicyClient(address, 5) as client:
                while not count or made < count:
                    client.infer(observation(), tick, 1)
                    made += 1
        except ServingError as error:
            if count:
                sys.exit(f"{made} chunks, then {error}")
            time.sleep(0.1)
        if count and made >= count:
            break
    print(made)


if __name__ == "__main__":
    main()
