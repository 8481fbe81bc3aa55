"""`pi0-edge convert`: a checkpoint as a policy folder of LeRobot."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from pi0_edge.cli.options import (
    CheckpointOption,
    JsonOption,
    NormStatsOption,
    RobotOption,
    SizesOption,
    TokenizerOption,
)
from pi0_edge.cli.output import Output


class LeRobotRelease(str, Enum):
    """The releases whose files differ."""

    BEFORE_RELATIVE_ACTIONS = "0.4"
    WITH_RELATIVE_ACTIONS = "0.6"


def convert(
    output: Annotated[Path, typer.Option(help="New folder for the policy.")],
    checkpoint: CheckpointOption = None,
    robot: RobotOption = None,
    tokenizer: TokenizerOption = None,
    sizes: SizesOption = None,
    norm_stats: NormStatsOption = None,
    lerobot: Annotated[
        LeRobotRelease, typer.Option(help="Which LeRobot is to open it: 0.4, or 0.6 for 0.5.1 and later.")
    ] = LeRobotRelease.WITH_RELATIVE_ACTIONS,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint as a policy folder of LeRobot."""
    from pi0_edge.checkpoints import open_checkpoint, save_lerobot_policy
    from pi0_edge.cli.loading import checkpoint_or_shipped, read_sizes
    from pi0_edge.processing.lerobot_pipelines import differences
    from pi0_edge.processing.loading import load_processor
    from pi0_edge.processing.settings import settings_in

    out = Output(as_json)
    given = read_sizes(sizes)
    opened = open_checkpoint(checkpoint_or_shipped(checkpoint))
    config = opened.infer_config(given)
    processor = load_processor(opened.folder, config, robot, tokenizer, norm_stats, settings=settings_in(given))
    save_lerobot_policy(output, opened, processor, lerobot.value)
    files = {path.name: path.stat().st_size for path in sorted(output.iterdir())}
    out.table(str(output), ("file", "MB"), [(name, size / 1e6) for name, size in files.items()])
    otherwise = differences(processor, lerobot.value)
    for sentence in otherwise:
        out.print(f"LeRobot {lerobot.value}: {sentence}")
    out.finish({"output": output, "files": files, "lerobot": lerobot.value, "differences": otherwise})
