"""What GPTQ asks of the calibration frames: XᵀX of the tokens that enter each linear, over all frames and Euler steps.

    products = collect_input_products(policy, frames, seed, paths)
    products["expert.layers.3.mlp.down"]  # float32 [K, K]

A product is K² numbers: 1 GB for the widest linear of the full-size network. So the network runs over the frames
several times, for as many layers at once as fit into `MOST_BYTES`, and each finished product goes to a file in a
temporary folder, from which one at a time is read. The network runs as in `pi0_edge.ptq.calibration`, on the same
frames and noise; the same inputs give the same bytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pi0_edge.model import ModelInputs, PolicyNetwork
from pi0_edge.policy import Policy
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.ptq.calibration import MINIMUM_FRAMES, frame_noise, torch_model
from pi0_edge.ptq.frame_checks import UnfitFrames, inspect_frames
from pi0_edge.ptq.frames import Frames
from pi0_edge.quant import QuantizationError
from pi0_edge.quant.schemes import Scheme

MOST_BYTES = 4 * 2**30
"""Of products in memory at once; a single one may be larger."""


class InputProducts(Mapping[str, Tensor]):
    """XᵀX by module path, each read from its file when it is asked for; the files go with this object."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pi0_edge_products_")
        self._files: dict[str, Path] = {}

    def keep(self, path: str, product: Tensor) -> None:
        """Writes a product, float32 [K, K]."""
        file = Path(self._folder.name) / f"{len(self._files)}.safetensors"
        save_file({"product": product}, file)
        self._files[path] = file

    def __getitem__(self, path: str) -> Tensor:
        return load_file(self._files[path])["product"]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def collect_input_products(
    policy: Policy,
    frames: Frames,
    seed: int,
    paths: Sequence[str],
    on_progress: ProgressCallback | None = None,
    unfit: UnfitFrames | None = None,
    most_bytes: int = MOST_BYTES,
) -> InputProducts:
    """Runs a policy in fp32 over the calibration frames, as often as the memory for the products asks.

    Args:
        policy: On the reference engine.
        frames: The calibration half of `split_frames`.
        seed: Of the noise, as in `calibrate_policy`.
        paths: Of the linears, from `paths_to_round`.
        on_progress: Is called after every frame of every pass.
        unfit: Takes frames that do not fit the policy or are damaged; None allows none.
        most_bytes: Of products in memory at once.

    Raises:
        EngineError: If it is on another engine, whose layers may be quantized already.
        DatasetError: If the frames are too few, black or identical, or too many are unfit.
        ObservationError: If one of them does not fit the policy, and none may be left out.
        QuantizationError: If an activation is NaN or infinite, naming the layer.
    """
    model = torch_model(policy)
    widths = {path: int(model.get_submodule(path).get_parameter("weight").shape[1]) for path in paths}
    batches = _batches(widths, most_bytes)
    found = inspect_frames(frames, policy.processor, MINIMUM_FRAMES, unfit)
    stage = Stage("measuring for GPTQ", found.frames * len(batches), on_progress)
    products = InputProducts()
    for batch in batches:
        sums = {path: torch.zeros(widths[path], widths[path]) for path in batch}
        hooks = _add_up(model, sums)
        try:
            for number, sample in enumerate(map(policy.processor.to_model_inputs, found.fit)):
                _run(policy, model, sample, seed, number)
                stage.advance()
        finally:
            for hook in hooks:
                hook.remove()
        for path, product in sums.items():
            if not bool(product.isfinite().all()):
                raise QuantizationError(f"activations that enter {path} are NaN or infinite; check the checkpoint")
            products.keep(path, product)
    return products


def paths_to_round(model: nn.Module, schemes: Sequence[Scheme]) -> list[str]:
    """Paths of the linears that any of the schemes rounds by GPTQ, in the order of the model."""
    linears = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    rules = ((path, scheme.rule_for(path)) for path in linears for scheme in schemes)
    return list(dict.fromkeys(path for path, rule in rules if rule is not None and rule.by_gptq))


@torch.no_grad()
def _run(policy: Policy, model: PolicyNetwork, sample: ModelInputs, seed: int, number: int) -> None:
    noise = frame_noise(model.config, seed, number).to(sample.state.device)
    model.sample_actions(sample, noise, policy.engine.times)


def _batches(widths: Mapping[str, int], most_bytes: int) -> list[list[str]]:
    """Paths whose products fit into `most_bytes` together, in order."""
    batches: list[list[str]] = []
    left = 0
    for path, width in widths.items():
        needed = 4 * width * width
        if not batches or needed > left:
            batches.append([])
            left = most_bytes
        batches[-1].append(path)
        left -= needed
    return batches


def _add_up(model: nn.Module, sums: Mapping[str, Tensor]) -> list[torch.utils.hooks.RemovableHandle]:
    """Adds XᵀX to the sums whenever a layer runs; neighbours that read the same tokens compute it once."""
    last: list[tuple[Tensor, Tensor]] = []

    def hook(own: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if not last or last[0][0] is not inputs[0]:
                tokens = inputs[0].detach().flatten(0, -2).float()
                last[:] = [(inputs[0], tokens.t() @ tokens)]
            own.add_(last[0][1])

        return add

    return [model.get_submodule(path).register_forward_pre_hook(hook(own)) for path, own in sums.items()]
