"""The chunks of a run as samples of a bench: the demo's figures are made as those of `pi0-edge bench`."""

from __future__ import annotations

import numpy as np

from pi0_edge.bench.figures import RunFigures, figures_of
from pi0_edge.bench.result import Run
from pi0_edge.bench.samples import Samples
from pi0_edge.demo.run_record import RunRecord
from pi0_edge.latency.stages import WHOLE_NETWORK, Stage
from pi0_edge.protos.bridge_pb2 import ChunkReport

TOLD_STAGES = (
    *(Stage.PREPROCESS.value, WHOLE_NETWORK, Stage.POSTPROCESS.value),
    *(Stage.SPLICE.value, Stage.SERIAL.value),
)
"""Columns of `RunRecord.chunk_stages_ms`: the first three as the policy server tells them, the others as the bridge."""


def chunk_figures(record: RunRecord, period_ms: float) -> RunFigures | None:
    """From the observation until the firmware confirmed the chunk, of every chunk that it confirmed.

    Args:
        record: Of a run.
        period_ms: Between two observations.

    Returns:
        As of a paced run; None where no chunk was confirmed.
    """
    confirmed = record.chunk_outcome == ChunkReport.ACCEPTED
    if not confirmed.any():
        return None
    begin_ns, end_ns = record.chunk_begin_ns[confirmed], record.chunk_confirmed_ns[confirmed]
    told_ms = record.chunk_stages_ms[confirmed]
    samples = Samples(
        due_ns=begin_ns,
        begin_ns=begin_ns,
        end_ns=end_ns,
        skipped=np.zeros(len(begin_ns), np.int64),
        stages_ms={
            **dict(zip(TOLD_STAGES, told_ms.T, strict=True)),
            Stage.TRANSPORT.value: (end_ns - begin_ns) * 1e-6 - told_ms.sum(axis=1),
        },
    )
    return figures_of(Run("paced", period_ms, None, samples, overhead_ms=0.0))
