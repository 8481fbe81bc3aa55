"""The table of transitions in `docs/safety.md`: `python -m firmware_bridge.lockstep.safety_table [--check]`.

The one source is `safety_transitions`, read from the compiled core; the names and meanings of the events are those of
`core/safety.h`. Diagram and table are written between the two marks of the page. `--check` writes nothing and exits
with 1 where the page is not current.
"""

from __future__ import annotations

import argparse
import ctypes
import re
import sys
from pathlib import Path

from firmware_bridge.errors import EmulatorError
from firmware_bridge.lockstep.host_library import FIRMWARE, load_host_library
from firmware_bridge.lockstep.model_check import ROBOT
from pi0_edge.protos.serial_link import State

PAGE = Path(__file__).parents[2] / "docs" / "safety.md"
BEGIN = "<!-- made by python -m firmware_bridge.lockstep.safety_table -->"
END = "<!-- end -->"
_NO_TRANSITION = 0xFF
Transitions = dict[tuple[str, State], State]


def read_events() -> dict[str, str]:
    """Name and meaning of each event, in the order of the table."""
    header = (FIRMWARE / "core" / "safety.h").read_text()
    return dict(re.findall(r"SAFETY_EVENT_(\w+), +/\* (.+?) \*/", header))


def read_transitions() -> Transitions:
    """The table of the compiled core: (event, state) to the state after it.

    Raises:
        EmulatorError: The core does not compile here.
    """
    events, states = list(read_events()), list(State)
    table = (ctypes.c_uint8 * (len(events) * len(states))).in_dll(load_host_library(ROBOT), "safety_transitions")
    entries = zip(((event, state) for event in events for state in states), table, strict=True)
    return {place: State(after) for place, after in entries if after != _NO_TRANSITION}


def draw_diagram(transitions: Transitions) -> str:
    """A Mermaid state diagram, without what leads from a state to itself."""
    labels: dict[tuple[State, State], list[str]] = {}
    for (event, before), after in transitions.items():
        if before != after:
            labels.setdefault((before, after), []).append(event)
    edges = [f"    {a.name} --> {b.name}: {'<br>'.join(events)}" for (a, b), events in labels.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", "    [*] --> DISARMED: reset", *edges, "```"])


def write_table(transitions: Transitions) -> str:
    """A Markdown table: a row for each event, a column for each state."""
    states = list(State)
    rows = [
        f"| event | when | {' | '.join(state.name for state in states)} |",
        f"|{'---|' * (len(states) + 2)}",
    ]
    for event, meaning in read_events().items():
        after = (transitions.get((event, state)) for state in states)
        rows.append(
            f"| {event} | {meaning} | {' | '.join(state.name if state is not None else '–' for state in after)} |"
        )
    return "\n".join(rows)


def current_page() -> str:
    """The page as it should be: with diagram and table of the compiled core."""
    transitions = read_transitions()
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{draw_diagram(transitions)}\n\n{write_table(transitions)}\n\n{END}{after}"


def main() -> int:
    """Writes or checks the page."""
    parser = argparse.ArgumentParser(prog="safety_table", description="Write the transitions into docs/safety.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page is stale")
    options = parser.parse_args()
    try:
        page = current_page()
    except EmulatorError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    stale = page != PAGE.read_text()
    if stale and not options.check:
        PAGE.write_text(page)
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
