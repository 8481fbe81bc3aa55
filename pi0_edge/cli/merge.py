"""`pi0-edge merge`: a checkpoint with its LoRA factors merged, in the project's own layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pi0_edge.cli.options import JsonOption, RobotOption, SizesOption, TokenizerOption
from pi0_edge.cli.output import Output
from pi0_edge.errors import ConfigError


def merge(
    checkpoint: Annotated[Path, typer.Option(help="Adapter folder of PEFT or LeRobot; or openpi's LoRA checkpoint.")],
    output: Annotated[Path, typer.Option(help="Folder for the merged checkpoint.")],
    base: Annotated[
        Path | None, typer.Option(help="What the adapter was trained on, if that is not where the adapter says.")
    ] = None,
    sizes: SizesOption = None,
    robot: RobotOption = None,
    tokenizer: TokenizerOption = None,
    norm_stats: Annotated[Path | None, typer.Option(help="Statistics in openpi's format, if there are none.")] = None,
    weights_only: Annotated[bool, typer.Option(help="Write the weights without robot, statistics, tokenizer.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Merge LoRA factors into the weights they belong to.

    Weights keep the dtype of the base. Statistics, robot and tokenizer come from the folder of the adapter.
    """
    from pi0_edge.checkpoints import load_sizes, open_checkpoint, save_checkpoint
    from pi0_edge.engine.loading import parameter_shapes
    from pi0_edge.processing import load_processor

    if output.resolve() in {path.resolve() for path in (checkpoint, base) if path is not None}:
        raise ConfigError(f"the output {output} is the checkpoint or its base; name another folder")
    opened = open_checkpoint(checkpoint, base)
    config = opened.infer_config({} if sizes is None else load_sizes(sizes))
    description: Any = None
    if not weights_only:
        try:
            description = load_processor(opened.folder, config, robot, tokenizer, norm_stats).description()
        except ConfigError as error:
            raise ConfigError(f"{error}. Or give --weights-only and let later commands name them") from error
    shapes = parameter_shapes(config)
    opened.check(shapes)
    merged = {name: tensor.clone() for name, tensor in opened.tensors(shapes)}
    save_checkpoint(output, merged, config, description)
    out = Output(as_json)
    out.print(f"merged checkpoint: {output} ({opened.layout}, {opened.variant})")
    out.finish({"output": str(output), "layout": opened.layout, "variant": opened.variant})
