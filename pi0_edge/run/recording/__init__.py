"""A run as one MCAP file: recorded, read, recovered, turned into a dataset, and computed again bit for bit.

with RunRecorder(Path("run.mcap"), description) as recorder:   # a listener of the run
    ...

recording = RunRecording(Path("run.mcap"))
recording.ticks, recording.observations, recording.answers, recording.events
"""

from pi0_edge.run.recording.description import RunDescription
from pi0_edge.run.recording.recorder import RunRecorder
from pi0_edge.run.recording.run_recording import RunRecording

__all__ = ["RunDescription", "RunRecorder", "RunRecording"]
