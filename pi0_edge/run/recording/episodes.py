"""The episodes of a recording: which ticks belong together, what was to be done, how it ended, and who moved the arm.

An episode is a time in which the arm executed setpoints without a stop. It ends where a person labels it, where the
prompt changes, where the arm stops, or where ticks are missing. A label belongs to the episode that runs, or to the
last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pi0_edge.protos import recording_pb2
from pi0_edge.protos.serial_link import State
from pi0_edge.run.recording.run_recording import RunRecording

PERSON, POLICY = "person", "policy"
"""Events from whose tick on the ticks are a person's, and the policy's again."""

LABEL, PROMPT = "label", "prompt"
_MOVING = (State.RUNNING, State.STARVED)


@dataclass(frozen=True)
class RecordedEpisode:
    """One episode.

    Attributes:
        ticks: Its ticks, consecutive.
        prompt: What was to be done.
        label: What a person said of it; empty where nobody did.
        by_person: Of each tick, whether a person moved the arm.
    """

    ticks: tuple[recording_pb2.RecordedTick, ...]
    prompt: str
    label: str
    by_person: tuple[bool, ...]


def episodes_of(recording: RunRecording) -> list[RecordedEpisode]:
    """All episodes, in their order."""
    events = [event.message for event in recording.events]
    labels = sorted((event for event in events if event.name == LABEL), key=lambda event: event.tick)
    cuts = {event.tick for event in events if event.name in (LABEL, PROMPT)}
    spans = _spans([tick.message for tick in recording.ticks], cuts)
    persons = _person_spans(events)
    found = []
    for place, span in enumerate(spans):
        following = spans[place + 1][0].tick if place + 1 < len(spans) else None
        by_person = tuple(any(first <= tick.tick < end for first, end in persons) for tick in span)
        found.append(RecordedEpisode(tuple(span), _prompt(recording, span), _label(labels, span, following), by_person))
    return found


def _spans(ticks: Sequence[recording_pb2.RecordedTick], cuts: set[int]) -> list[list[recording_pb2.RecordedTick]]:
    spans: list[list[recording_pb2.RecordedTick]] = []
    last = None
    for tick in ticks:
        if tick.state not in _MOVING:
            last = None
            continue
        if last is None or tick.tick != (last.tick + 1) & 0xFFFFFFFF or last.tick in cuts:
            spans.append([])
        spans[-1].append(tick)
        last = tick
    return spans


def _prompt(recording: RunRecording, span: Sequence[recording_pb2.RecordedTick]) -> str:
    """The prompt of the observation behind the middle of an episode, or of the last one before it."""
    middle = span[len(span) // 2]
    by_tick = {one.message.tick: one.message.prompt for one in recording.observations}
    if middle.chunk_id and middle.observed_tick in by_tick:
        return by_tick[middle.observed_tick]
    earlier = [prompt for tick, prompt in by_tick.items() if tick <= middle.tick]
    return earlier[-1] if earlier else recording.description.policy.default_prompt


def _label(
    labels: Sequence[recording_pb2.RecordedEvent], span: Sequence[recording_pb2.RecordedTick], following: int | None
) -> str:
    """The last label that was given from the begin of an episode to that of the next."""
    given = [
        label.text for label in labels if span[0].tick <= label.tick and (following is None or label.tick < following)
    ]
    return given[-1] if given else ""


def _person_spans(events: Sequence[recording_pb2.RecordedEvent]) -> list[tuple[int, int]]:
    """First tick and the tick after the last of each time in which the ticks are a person's."""
    spans: list[tuple[int, int]] = []
    since: int | None = None
    for event in events:
        if event.name == PERSON and since is None:
            since = event.tick
        elif event.name == POLICY and since is not None:
            spans.append((since, event.tick))
            since = None
    return spans if since is None else [*spans, (since, 1 << 32)]
