"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pi0_edge.cli.output import JSON_FLAG

JsonOption = Annotated[bool, typer.Option(JSON_FLAG, help="Print the result as JSON, last line of standard output.")]
CheckpointOption = Annotated[
    Path | None, typer.Option(help="Checkpoint file or folder of any known layout; the shipped policy if not given.")
]
EngineOption = Annotated[
    str, typer.Option(help="What runs the network: cpu, cuda, tensorrt, openvino, or reference (fp32).")
]
SchemeOption = Annotated[
    str | None,
    typer.Option(help="How it is quantized: name of a scheme or a .yaml; else int8-w8a8 (cuda: orin, others: bf16)."),
]
FramesOption = Annotated[
    Path | None, typer.Option(help="LeRobotDataset, recording of `serve --record`, or .npz; else the simulation.")
]
SkipUnfitOption = Annotated[
    int, typer.Option(min=0, help="Leave out up to N frames that do not fit the policy or are damaged, and list them.")
]
BundleOption = Annotated[
    Path | None, typer.Option(help="Bundle folder, instead of a checkpoint; robot and tokenizer come with it.")
]
PublicKeyOption = Annotated[Path | None, typer.Option(help="Refuse a bundle that this key (PEM) did not sign.")]
AcceptFailedGateOption = Annotated[
    bool, typer.Option("--accept-failed-gate", help="Run a bundle whose accuracy gate failed or is missing.")
]
RobotOption = Annotated[str | None, typer.Option(help="Robot layout, name or .yaml, if the checkpoint names none.")]
TokenizerOption = Annotated[
    Path | None, typer.Option(help="tokenizer.model or tokenizer.json, where the checkpoint holds none.")
]
SizesOption = Annotated[
    Path | None, typer.Option("--config", help="SIZES.yaml: sizes and settings that the checkpoint does not tell.")
]
NormStatsOption = Annotated[
    Path | None, typer.Option(help="norm_stats.json, instead of the checkpoint's own statistics.")
]
RefuseUnfitStateOption = Annotated[
    bool, typer.Option("--refuse-unfit-state", help="Refuse a state far from all that the policy was trained on.")
]
TruncatePromptsOption = Annotated[
    bool, typer.Option("--truncate-prompts", help="Cut off the end of an over-long prompt, instead of refusing it.")
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads of the network; else torch's default.")]
TlsOption = Annotated[
    Path | None, typer.Option(help="Folder from `pi0-edge certificates`: ask every client for a certificate.")
]
MetricsPortOption = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Offer figures for Prometheus on this port of loopback.")
]
LogJsonOption = Annotated[bool, typer.Option("--log-json", help="Log to standard error as JSON lines.")]
