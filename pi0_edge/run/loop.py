"""The loop of a run: takes one thing after the other from the inbox, and decides what the arm does next.

Only the thread that calls `RunLoop.run` changes anything here. It blocks for nothing but the commands ARM, DISARM and
CLEAR, which the bridge confirms or refuses within a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from firmware_bridge.client import BridgeClient, Tick
from firmware_bridge.errors import BridgeError, StateError
from firmware_bridge.robot import ACTIVE_STATES, RobotJoints
from firmware_bridge.splice import NOTHING, Plan, Splice
from pi0_edge.protos import bridge_pb2, policy_pb2
from pi0_edge.protos.serial_link import Fault, State
from pi0_edge.run.inbox import Inbox, Inferred, PolicyThread, Reported, TelemetryEnded, Wish
from pi0_edge.run.interventions import HAND_BACK_TICKS, PersonPath, SetpointSource, setpoints_text
from pi0_edge.run.life_cycle import LifeCycle, Outcome, Phase, Step
from pi0_edge.run.listeners import Listeners
from pi0_edge.run.motion import Motion, PolicyChunkSent, Sent
from pi0_edge.run.observing import PATIENCE_S, Observer
from pi0_edge.run.policy_source import is_refusal

TELEMETRY_LIMIT_S = 1.0
"""Without a tick for so long, the bridge or its link is lost; the firmware is SAFE by then."""

MOST_FAILURES = 5
"""So many chunks in a row that were not made or not taken end the run."""

_PROBE_S = 1.0
_EXPLAIN_S = 0.5


@dataclass(frozen=True)
class RunLimits:
    """How long a run waits, and for what.

    Attributes:
        replan_ticks: Ticks between two observations, if the policy is fast enough; None takes those of the serving
            certificate, else those of the robot file, else 25.
        hold_s: Waits so long for images or chunks to come back, then ends.
    """

    replan_ticks: int | None = None
    hold_s: float = 10.0


class RunLoop:
    """Plays one policy on one arm, from ARM to the end of the run.

    Attributes:
        prompt: What the policy is asked to do now.
    """

    def __init__(
        self,
        bridge: BridgeClient,
        policy: PolicyThread,
        metadata: policy_pb2.PolicyMetadata,
        joints: RobotJoints,
        tick_period_s: float,
        observer: Observer,
        inbox: Inbox,
        listeners: Listeners,
        life: LifeCycle,
        splice: Splice,
        limits: RunLimits,
        replan_ticks: int,
    ) -> None:
        self.prompt = ""
        self._bridge = bridge
        self._policy = policy
        self._metadata = metadata
        self._observer = observer
        self._inbox = inbox
        self._listeners = listeners
        self._life = life
        self._splice = splice
        self._limits = limits
        self._replan_ticks = replan_ticks
        self._joints = joints
        self._tick_period_s = tick_period_s
        self._tick: Tick | None = None
        self._motion: Motion | None = None
        self._ended_motion: Motion | None = None
        """The one before; reports of its last chunks may still come."""
        self._catching_up = False
        """Whether ticks may still come from before the last ARM or DISARM."""
        self._stream_error: tuple[str, float] | None = None
        self._policy_lost = ""
        self._probed_at = 0.0
        self._hold_began = 0.0
        self._failures = 0
        self._seconds: float | None = None
        self._played_s = 0.0
        self._armed_at = 0.0
        self._path: PersonPath | None = None
        self._source: SetpointSource | None = None
        self._owner = ""
        self._other_client = ""
        self._wishes: dict[str, Callable[[Wish], None]] = {
            "pause": self._pause,
            "resume": self._resume,
            "change_prompt": self._change_prompt,
            "take_over": self._take_over,
            "hand_back": self._hand_back,
            "label": lambda wish: self._listeners.say("label", wish.text),
            "stop": lambda wish: self._life.end(Outcome.DONE, wish.text),
            "refuse": lambda wish: self._life.end(Outcome.REFUSED, wish.text),
        }

    @property
    def played_s(self) -> float:
        """How long the arm was armed so far, seconds."""
        return self._played_s + (0.0 if self._motion is None else time.monotonic() - self._armed_at)

    def run(self, prompt: str, seconds: float | None) -> None:
        """Arms, plays, and disarms; how it ended is in the life cycle.

        Args:
            prompt: What to do.
            seconds: How long the arm is armed in all; without limit where None.
        """
        self.prompt, self._seconds = prompt, seconds
        try:
            self._go(Step.START)
            while not self._life.ended:
                self._handle_next()
        except BridgeError as error:
            self._life.end(Outcome.LOST, str(error))
        except KeyboardInterrupt:
            self._life.end(Outcome.DONE, "Ctrl-C")
            raise
        finally:
            self._life.end(Outcome.FAULT, "a mistake in this program")  # where nothing else has ended it
            self._disarm(self._life.reason)
            self._listeners.say("stopped", self._life.reason)

    def _handle_next(self) -> None:
        item = self._inbox.next(TELEMETRY_LIMIT_S)
        if self._inbox.silent_s > TELEMETRY_LIMIT_S:
            self._life.end(
                Outcome.LOST, f"no telemetry for {self._inbox.silent_s:.1f} s: the bridge or its link is gone"
            )
            return
        match item:
            case Tick():
                self._on_tick(item)
            case Inferred():
                self._on_inferred(item)
            case Reported():
                self._on_reported(item)
            case Wish():
                self._wishes[item.name](item)
            case TelemetryEnded():
                self._life.end(Outcome.LOST, str(item.error))
            case None:
                pass

    # What the firmware did.

    def _on_tick(self, tick: Tick) -> None:
        self._listeners.on_tick(tick)
        self._tick = tick
        self._watch_arm(tick)
        if self._life.phase is Phase.PLAYING:
            self._observe_if_due(tick)
        elif self._life.phase is Phase.HOLDING:
            self._go_on_or_give_up(tick)
        elif self._life.phase is Phase.TAKEN_OVER:
            self._lead(tick)
        self._watch_time()

    def _watch_arm(self, tick: Tick) -> None:
        active, armed = tick.state in ACTIVE_STATES, self._motion is not None
        self._catching_up = self._catching_up and active != armed
        if tick.state == State.ESTOP:
            self._end_by_firmware(Outcome.ESTOPPED, tick)
        elif self._catching_up:
            return
        elif tick.state == State.SAFE and tick.faults != Fault.STARVATION:
            self._end_by_firmware(Outcome.FAULT, tick)
        elif tick.state == State.SAFE and armed:
            self._hold("no chunk came before the last one had been executed")
        elif tick.state == State.SAFE:
            self._bridge.clear("chunks were late")  # the one fault whose cause is known here: the arm ran out of chunks
        elif armed and not active:
            self._life.end(Outcome.LOST, "somebody else disarmed the arm")
        elif active and not armed:
            self._note_other_client()
        elif self._stream_error and time.monotonic() - self._stream_error[1] > _EXPLAIN_S:
            self._life.end(Outcome.LOST, self._stream_error[0])

    def _note_other_client(self) -> None:
        """Says once who took the arm while this run had left it."""
        if not self._other_client:
            self._other_client = self._bridge.status().owner or "nobody"
            self._listeners.say("taken-over", f"client {self._other_client!r} of the bridge")

    def _end_by_firmware(self, outcome: Outcome, tick: Tick) -> None:
        faults = ", ".join(fault.name or "" for fault in Fault if tick.faults & fault)
        joint = f", joint {tick.fault_joint}" if tick.fault_joint else ""
        self._listeners.say("fault", faults + joint, tick.tick)
        self._life.end(outcome, f"at tick {tick.tick} the arm became {tick.state.name} ({faults}{joint})")

    def _watch_time(self) -> None:
        if self._seconds is not None and self.played_s >= self._seconds:
            self._life.end(Outcome.DONE, "the time is up")

    # What the policy is asked, and what it answers.

    def _observe_if_due(self, tick: Tick) -> None:
        if missing := self._observer.missing():
            if self._observer.missing_s > PATIENCE_S:
                self._hold(missing)
        elif self._motion is not None and self._may_observe(tick) and self._motion.scheduler.due(tick.tick):
            continuation = self._motion.scheduler.observe(tick.tick)
            observed = self._observer.observe(tick, self.prompt, continuation)
            self._motion.asked = observed
            self._listeners.on_observed(observed)
            self._policy.ask(observed)

    def _may_observe(self, tick: Tick) -> bool:
        """Whether the policy is free, and the tick is the newest: others have waited while the arm was armed."""
        return not self._policy.busy and not self._catching_up and tick.tick == self._inbox.newest_tick

    def _on_inferred(self, item: Inferred) -> None:
        self._policy.busy = False
        if isinstance(item.answer, Exception):
            self._on_policy_error(item.answer, was_probe=item.observed is None)
        elif isinstance(item.answer, policy_pb2.PolicyMetadata):
            self._on_policy_back(item.answer)
        elif self._motion is not None and item.observed is not None and self._motion.asked is item.observed:
            self._motion.send_policy_chunk(item.observed, item.answer, item.time_ns)

    def _on_policy_error(self, error: Exception, was_probe: bool) -> None:
        if is_refusal(error):
            self._life.end(Outcome.REFUSED, f"the policy refused an observation: {error}")
            return
        self._policy_lost = str(error) or type(error).__name__
        if not was_probe:
            self._count_failure(Outcome.LOST, self._policy_lost)
        if self._life.phase is Phase.PLAYING:
            self._hold(self._policy_lost)

    def _on_policy_back(self, metadata: policy_pb2.PolicyMetadata) -> None:
        self._policy_lost = ""
        if metadata != self._metadata:
            self._life.end(Outcome.REFUSED, "another policy answers now than at the start of the run; start again")

    def _on_reported(self, item: Reported) -> None:
        report, motions = item.report, (self._motion, self._ended_motion)
        motion = next((one for one in motions if one is not None and one.stream is item.stream), None)
        if motion is None:
            return
        if isinstance(report, BridgeError):
            if motion is self._motion:
                self._stream_error = str(report), time.monotonic()  # telemetry may be about to say why
            return
        sent = motion.reported()
        self._tell_report(sent, report, item.time_ns)
        if motion is not self._motion:
            return
        accepted = report.outcome == bridge_pb2.ChunkReport.ACCEPTED
        if isinstance(sent, PolicyChunkSent):
            motion.enter(sent, report)
        if accepted:
            self._failures = 0
            self._note_owner(sent, report.first_tick)
        else:
            self._count_failure(Outcome.REFUSED, report.reason)

    def _tell_report(self, sent: Sent, report: bridge_pb2.ChunkReport, time_ns: int) -> None:
        """Tells what became of a chunk, and what a person commanded."""
        if isinstance(sent, PolicyChunkSent):
            self._listeners.on_answered(sent.answered(report, time_ns))
        elif report.sent_tick:
            self._listeners.say("setpoints", setpoints_text(sent.tick, sent.setpoints, report), report.first_tick)

    def _note_owner(self, sent: Sent, first_tick: int) -> None:
        """Says whose the ticks are from a tick on, where that changes."""
        owner = "policy" if isinstance(sent, PolicyChunkSent) else "person"
        if owner != self._owner:
            self._owner = owner
            self._listeners.say(owner, f"the ticks are the {owner}'s from {first_tick} on", first_tick)

    def _count_failure(self, outcome: Outcome, reason: str) -> None:
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            self._life.end(outcome, f"{MOST_FAILURES} chunks in a row came to nothing: {reason}")

    # What is missing, and what is back.

    def _hold(self, reason: str) -> None:
        self._hold_began = time.monotonic()
        self._go(Step.HOLD, reason)

    def _go_on_or_give_up(self, tick: Tick) -> None:
        obstacle = self._obstacle()
        if not obstacle and tick.state == State.DISARMED and not self._catching_up:
            self._go(Step.RESUME, "what was missing is back")
        elif time.monotonic() - self._hold_began > self._limits.hold_s:
            why = obstacle or self._life.reason
            self._life.end(Outcome.LOST, f"{why}; the run waited {self._limits.hold_s:g} s for it")

    def _obstacle(self) -> str:
        """What the policy cannot play without, in words; empty where nothing is missing."""
        if self._policy_lost:
            if not self._policy.busy and time.monotonic() - self._probed_at > _PROBE_S:
                self._probed_at = time.monotonic()
                self._policy.ask(None)
            return self._policy_lost
        return self._observer.missing() or ("the policy has not answered yet" if self._policy.busy else "")

    # What people wish.

    def _pause(self, wish: Wish) -> None:
        if self._life.allows(Step.PAUSE):
            self._go(Step.PAUSE, wish.text)

    def _resume(self, wish: Wish) -> None:
        if self._life.phase is not Phase.PAUSED:
            return
        if self._tick is not None and self._tick.state != State.DISARMED:
            self._listeners.say("not-resumed", f"the arm is {self._tick.state.name}, expected DISARMED")
        elif obstacle := self._obstacle():
            self._hold(obstacle)
        else:
            self._go(Step.RESUME, wish.text)

    def _change_prompt(self, wish: Wish) -> None:
        self.prompt = wish.text
        self._listeners.say("prompt", wish.text)
        if self._motion is not None and not self._policy.busy:
            self._motion.scheduler.lost()  # the next observation is due at once

    def _take_over(self, wish: Wish) -> None:
        if wish.source is None or self._tick is None or not self._life.allows(Step.TAKE_OVER):
            return
        if why_not := wish.source.why_not(self._tick.measured):
            self._listeners.say("not-taken-over", why_not)
            return
        self._source = wish.source
        before = NOTHING if self._motion is None else self._motion.scheduler.plan
        self._go(Step.TAKE_OVER, wish.text)
        if self._motion is not None:
            self._motion.asked = None  # a chunk that the policy is making is not played
            self._path = PersonPath(self._joints, self._tick_period_s, before, self._tick.measured)
            self._source.begin(self._tick.measured)

    def _lead(self, tick: Tick) -> None:
        motion, path, source = self._motion, self._path, self._source
        if motion is not None and path is not None and source is not None and path.due(tick.tick):
            motion.send_person_chunk(path.chunk(tick.tick, source.target()), tick.tick)

    def _hand_back(self, wish: Wish) -> None:
        if self._motion is None or self._path is None or self._tick is None or not self._life.allows(Step.HAND_BACK):
            return
        held = self._path.chunk(self._tick.tick, None, HAND_BACK_TICKS)
        self._motion.send_person_chunk(held, self._tick.tick)
        self._motion.hold_plan(Plan(self._tick.tick + 1, held))
        self._path = None
        self._go(Step.HAND_BACK, wish.text)

    # Arming and disarming.

    def _go(self, step: Step, reason: str = "") -> None:
        """Takes a step of the life cycle, and arms or disarms as the new phase demands."""
        phase = self._life.take(step, reason)
        self._listeners.say(phase.value.replace(" ", "-"), reason)
        if not self._life.armed:
            self._disarm(reason)
        elif self._motion is None:
            self._arm()

    def _arm(self) -> None:
        try:
            self._bridge.arm(self._metadata.action_names)
        except StateError as error:
            self._life.end(Outcome.REFUSED, str(error))
            return
        self._motion = Motion(self._bridge, self._inbox, self._splice, self._replan_ticks)
        self._armed_at, self._catching_up, self._stream_error = time.monotonic(), True, None
        self._other_client = ""
        self._listeners.say("armed")

    def _disarm(self, reason: str) -> None:
        if self._motion is None:
            return
        self._played_s += time.monotonic() - self._armed_at
        motion, self._motion, self._catching_up = self._motion, None, True
        self._ended_motion = motion
        try:
            if self._life.outcome not in (Outcome.FAULT, Outcome.ESTOPPED):  # the firmware has stopped the arm already
                self._bridge.disarm(reason)
                self._listeners.say("disarmed", reason)
        except BridgeError as error:
            self._listeners.say("not-disarmed", str(error))
        motion.close()
