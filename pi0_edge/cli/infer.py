"""`pi0-edge infer`: one observation from files, one chunk out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pi0_edge.cli.options import (
    AcceptFailedGateOption,
    BundleOption,
    CheckpointOption,
    EngineOption,
    JsonOption,
    NormStatsOption,
    PublicKeyOption,
    RefuseUnfitStateOption,
    RobotOption,
    SchemeOption,
    SizesOption,
    ThreadsOption,
    TokenizerOption,
    TruncatePromptsOption,
)
from pi0_edge.cli.output import Output

if TYPE_CHECKING:
    from pi0_edge.policy import Policy, PolicyChunk

SHOWN_ACTIONS = 5


def infer(
    image: Annotated[list[str], typer.Option(help="CAMERA=IMAGE.png; repeat for each camera there is.")],
    state: Annotated[str, typer.Option(help='Numbers such as "0 -0.5 1.2", or a .npy, .json or text file of them.')],
    checkpoint: CheckpointOption = None,
    bundle: BundleOption = None,
    prompt: Annotated[str | None, typer.Option(help="What to do; the robot's default if not given.")] = None,
    engine: EngineOption = "cpu",
    scheme: SchemeOption = None,
    robot: RobotOption = None,
    tokenizer: TokenizerOption = None,
    norm_stats: NormStatsOption = None,
    sizes: SizesOption = None,
    truncate_prompts: TruncatePromptsOption = False,
    public_key: PublicKeyOption = None,
    accept_failed_gate: AcceptFailedGateOption = False,
    refuse_unfit_state: RefuseUnfitStateOption = False,
    noise_seed: Annotated[int | None, typer.Option(min=0, help="Fixes the initial noise.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the chunk there as .npz or .json.")] = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a policy for one chunk."""
    from pi0_edge.cli.loading import load_policy
    from pi0_edge.cli.observation_files import check_chunk_path, read_images, read_state, write_chunk
    from pi0_edge.processing import Observation

    check_chunk_path(output)
    observation = Observation(read_images(image), read_state(state), prompt)
    policy = load_policy(
        checkpoint=checkpoint,
        bundle=bundle,
        engine=engine,
        scheme=scheme,
        robot=robot,
        tokenizer=tokenizer,
        sizes=sizes,
        public_key=public_key,
        accept_failed_gate=accept_failed_gate,
        threads=threads,
        norm_stats=norm_stats,
        refuse_unfit_state=refuse_unfit_state,
        truncate_prompts=truncate_prompts,
    )
    chunk = policy.infer(observation, noise_seed)
    names = policy.processor.robot.action_labels
    if output is not None:
        write_chunk(output, chunk.actions, names)
    out = Output(as_json)
    _show(out, policy, chunk, names)
    timing = {name: getattr(chunk, name) for name in ("preprocess_ms", "infer_ms", "postprocess_ms")}
    out.finish(
        {
            "actions": chunk.actions.tolist(),
            "names": names,
            "engine": engine,
            "scheme": policy.engine.scheme,
            "overrides": list(policy.overrides),
            "unfit_state": None if chunk.unfit_state is None else str(chunk.unfit_state),
            "output": output,
            **timing,
        }
    )


def _show(out: Output, policy: Policy, chunk: PolicyChunk, names: list[str]) -> None:
    horizon = len(chunk.actions)
    rows = [(name, *column) for name, column in zip(names, chunk.actions[:SHOWN_ACTIONS].T.tolist(), strict=True)]
    columns = ("dimension", *(f"action {k}" for k in range(min(SHOWN_ACTIONS, horizon))))
    rate = policy.processor.robot.control_hz  # a LeRobot folder does not record it
    title = f"first of {horizon} actions" + ("" if rate is None else f", {rate:g} per second")
    out.table(title, columns, rows)
    engine = policy.engine
    out.print(
        f"{engine.config.kind}, engine {engine.name} ({engine.scheme}): preprocessing {chunk.preprocess_ms:.1f} ms, "
        f"network {chunk.infer_ms:.1f} ms, postprocessing {chunk.postprocess_ms:.1f} ms"
    )
