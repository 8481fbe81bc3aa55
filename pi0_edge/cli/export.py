"""`pi0-edge export`: the network as ONNX programs for the TensorRT of another machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pi0_edge.cli.options import (
    AcceptFailedGateOption,
    BundleOption,
    CheckpointOption,
    JsonOption,
    PublicKeyOption,
    SchemeOption,
    SizesOption,
)
from pi0_edge.cli.output import Output

if TYPE_CHECKING:
    from pi0_edge.model import Pi0, PolicyNetwork
    from pi0_edge.processing.settings import ProcessingSettings
    from pi0_edge.quant import Scheme


def export(
    cameras: Annotated[int, typer.Option(min=1, help="That deliver images.")],
    tokens: Annotated[int, typer.Option(min=1, help="Of the prompt, exactly.")],
    output: Annotated[Path, typer.Option(help="New folder for the programs.")],
    checkpoint: CheckpointOption = None,
    bundle: BundleOption = None,
    scheme: SchemeOption = None,
    sizes: SizesOption = None,
    public_key: PublicKeyOption = None,
    accept_failed_gate: AcceptFailedGateOption = False,
    capability: Annotated[str, typer.Option(help="Compute capability of the GPU: 8.7 is Orin, 11.0 Thor.")] = "8.7",
    as_json: JsonOption = False,
) -> None:
    """Write a network as two ONNX programs for the TensorRT of a board."""
    from pi0_edge.errors import ConfigError
    from pi0_edge.model.flow import euler_times
    from pi0_edge.tensorrt.onnx_programs import require_onnx, write_onnx_programs
    from pi0_edge.tensorrt.programs import Shape
    from pi0_edge.tensorrt.qdq import write_out_quantization

    target = _capability(capability)
    require_onnx()
    if bundle is not None:
        if checkpoint is not None or scheme is not None or sizes is not None:
            raise ConfigError("--bundle brings its own weights, scheme and sizes; leave the other options out")
        model, chosen, settings, source = _from_bundle(bundle, public_key, accept_failed_gate, target)
    else:
        model, chosen, settings, source = _from_checkpoint(checkpoint, scheme, sizes, target)
    about = {"variant": model.config.variant, "scheme": chosen.name, "capability": capability, **source}
    times = euler_times(settings.euler_steps, settings.euler_times.value)
    write_onnx_programs(write_out_quantization(model), Shape(cameras, tokens), times, output, about)
    out = Output(as_json)
    files = {path.name: path.stat().st_size for path in sorted(output.iterdir())}
    out.table(str(output), ("file", "MB"), [(name, size / 1e6) for name, size in files.items()])
    out.print(f"{chosen.name}, {cameras} cameras, {tokens} tokens; build on the board, see docs/tensorrt.md")
    out.finish({"output": output, "files": files, **about})


def _capability(text: str) -> tuple[int, int]:
    from pi0_edge.errors import ConfigError

    major, _, minor = text.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        raise ConfigError(f"--capability {text!r} is no compute capability; expected one such as 8.7")
    return int(major), int(minor)


def _flow_only(model: PolicyNetwork) -> Pi0:
    from pi0_edge.errors import EngineError
    from pi0_edge.model import Pi0

    if not isinstance(model, Pi0):
        raise EngineError(
            f"the ONNX programs are of π0's flow matching, and this network has the head {model.config.head}"
        )
    return model


def _from_bundle(
    folder: Path, public_key: Path | None, accept_failed_gate: bool, capability: tuple[int, int]
) -> tuple[Pi0, Scheme, ProcessingSettings, dict[str, Any]]:
    from pi0_edge.bundle import open_bundle
    from pi0_edge.engine.loading import blank_model, restore_model
    from pi0_edge.processing.loading import restore_settings
    from pi0_edge.tensorrt.qdq import check_tensorrt_scheme

    opened = open_bundle(folder, public_key=public_key)
    overrides = opened.overrides_in_force(accept_failed_gate)
    check_tensorrt_scheme(opened.scheme, capability)
    model = _flow_only(blank_model(opened.config, opened.scheme))
    restore_model(model, opened.tensors(), opened.scheme, pack=False)
    settings = restore_settings(opened.manifest.processing)
    return model, opened.scheme, settings, {"bundle_sha256": opened.sha256, "overrides": list(overrides)}


def _from_checkpoint(
    checkpoint: Path | None, scheme: str | None, sizes: Path | None, capability: tuple[int, int]
) -> tuple[Pi0, Scheme, ProcessingSettings, dict[str, Any]]:
    from pi0_edge.checkpoints import open_checkpoint
    from pi0_edge.cli.loading import checkpoint_or_shipped, read_sizes
    from pi0_edge.engine import parameter_shapes
    from pi0_edge.engine.loading import blank_model, fill_model
    from pi0_edge.policy import combined_hash
    from pi0_edge.processing.loading import load_settings
    from pi0_edge.processing.settings import settings_in
    from pi0_edge.quant.scheme_files import load_scheme
    from pi0_edge.quant.schemes import BF16_POLICY
    from pi0_edge.tensorrt.qdq import check_tensorrt_scheme

    chosen = BF16_POLICY if scheme is None else load_scheme(scheme)
    check_tensorrt_scheme(chosen, capability)
    opened = open_checkpoint(checkpoint_or_shipped(checkpoint))
    given = read_sizes(sizes)
    config = opened.infer_config(given)
    shapes = parameter_shapes(config)
    opened.check(shapes)
    model = _flow_only(blank_model(config, chosen))
    fill_model(model, opened.tensors(shapes), chosen)
    settings = load_settings(opened.folder, config, settings_in(given))
    return model, chosen, settings, {"checkpoint_sha256": combined_hash(opened.source_hashes())}
