"""The CUDA engine: one graph from the observation to the actions, per number and size of images and number of tokens.

A graph holds images, prompt, state and noise in buffers of its own, and behind them the whole sequence of
`network`: vision, prefix and all Euler steps. It is captured when a shape first appears, which takes about a
second, and replayed ever after: no allocation and no Python between the inputs and the actions. Where an old prefix is
allowed, it is two graphs on two streams instead (`stale_prefix`).
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from pi0_edge.engine.cuda.graphs import CapturedChunk, CudaStream, LoopStage, PrefixStage, max_weight
from pi0_edge.engine.cuda.linears import check_cuda_rule
from pi0_edge.engine.cuda.network import CudaNetwork, StepTables, step_tables
from pi0_edge.engine.cuda.stale_prefix import PrefixSource, StalePrefixRunner
from pi0_edge.engine.engine import Engine
from pi0_edge.errors import EngineError
from pi0_edge.kernels.library import kernel_library
from pi0_edge.model import ModelInputs, Pi0, Pi0Config
from pi0_edge.model.flow import EULER_STEPS, euler_times
from pi0_edge.model.rtc import Continuation, FrozenPrefix, Guidance
from pi0_edge.quant.schemes import FP32, ORIN, Scheme

HEAD_DIMS, VISION_HEAD_DIMS = (256, 32), (72, 32)
"""Of prefix and expert, and of vision, that the attention kernel is compiled for: π0 and the shipped policy."""
FP8_GEMM_CAPABILITY = (9, 0)
"""The first GPU that our FP8 product is compiled for: Hopper, then Thor."""


class CudaEngine(Engine):
    """The network on a GPU, in 16 bits where the scheme leaves it alone.

    Attributes:
        stale_prefix_s: 0, or by how many seconds the images that a chunk is planned from may be older than its
            observation, so that it need not wait for its own: see `stale_prefix`. Set by `allow_stale_prefix`.
        prefix_age_s: How much older they were for the last chunk.
    """

    name = "cuda"
    default_scheme = ORIN
    takes_frames = True
    has_stale_prefix = True

    def __init__(self, model: Pi0, scheme: Scheme = ORIN) -> None:
        """Moves the weights of `model` to the GPU and deletes its layers.

        Args:
            model: Quantized under `scheme`, not packed.
            scheme: The scheme of its layers.

        Raises:
            EngineError: If there is no GPU, or none that runs this scheme or this network.
        """
        self.check(scheme)
        check_sizes(model.config)
        self._model = model.eval()  # what depends on time alone stays in it
        self.config = model.config
        self.scheme = scheme.name
        self.times = euler_times(EULER_STEPS)
        self.stale_prefix_s = self.prefix_age_s = 0.0
        self._network = CudaNetwork(model, torch.device("cuda", torch.cuda.current_device()))
        # One for whole chunks and two for re-planning: workspaces belong to a stream.
        self._stream, self._prefix_stream = CudaStream(self._network.device), CudaStream(self._network.device)
        self._loop_stream = CudaStream(self._network.device, urgent=True)
        self._tables: dict[tuple[float, ...], StepTables] = {}
        self._captured: dict[tuple[object, ...], CapturedChunk] = {}
        self._stale_prefix: dict[tuple[object, ...], StalePrefixRunner] = {}

    @classmethod
    def check(cls, scheme: Scheme) -> None:
        """As `Engine`."""
        if not torch.cuda.is_available():
            build = "a CPU build" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
            raise EngineError(f'the CUDA engine needs a CUDA device, and torch ({build}) sees none; use engine="cpu"')
        kernel_library().require_device()
        check_cuda_scheme(scheme, torch.cuda.get_device_capability())

    def allow_stale_prefix(self, limit_s: float) -> None:
        """As `Engine`.

        Raises:
            EngineError: If the limit is not positive, or the network has its state in the prompt (π0.5).
        """
        check_stale_prefix(self.config, limit_s)
        self.stale_prefix_s = limit_s

    def reset_prefix(self) -> None:
        """As `Engine`: another robot asks, or the last chunk failed."""
        for replanning in self._stale_prefix.values():
            replanning.reset()

    @torch.inference_mode()
    def infer(self, inputs: ModelInputs, noise: Tensor, continuation: Continuation | None = None) -> Tensor:
        """As `Engine`. Rows of a batch are run one after the other: a robot has one.

        Raises:
            EngineError: If an action is NaN or infinite, the continuation is of another kind, or a batch comes where a
                stale prefix is allowed.
        """
        arrived_s = time.monotonic()
        if not isinstance(continuation, Guidance | FrozenPrefix | None):
            raise EngineError(f"the CUDA engine has no {type(continuation).__name__}; use guidance or a frozen prefix")
        if self.stale_prefix_s and inputs.batch > 1:
            raise EngineError(f"a stale prefix is for one robot, and {inputs.batch} observations came at once")
        rows = [self._infer_row(inputs, row, noise[row], continuation, arrived_s) for row in range(inputs.batch)]
        actions = torch.stack(rows)
        if not torch.isfinite(actions).all():
            self.reset_prefix()
            raise EngineError("the network's actions contain NaN or infinity; check the observation, then the weights")
        return actions

    @torch.inference_mode()
    def captured(self, images: Tensor, tokens: int, limit: float | None = None) -> CapturedChunk:
        """The graph for such images and so many tokens, with guidance up to a limit; captured now if it is new."""
        tables = self._step_tables()
        shape = (images.shape, images.dtype, tokens, tables, limit)
        if shape not in self._captured:
            prefix = PrefixStage(self._network, images, tokens)
            loop = LoopStage(self._network, tables, prefix.cache, limit)
            self._captured[shape] = CapturedChunk(prefix, loop, self._stream)
        return self._captured[shape]

    def _infer_row(
        self, inputs: ModelInputs, row: int, noise: Tensor, continuation: Continuation | None, arrived_s: float
    ) -> Tensor:
        images = inputs.images[row][inputs.image_mask[row]]
        tokens, state = inputs.tokens[row][inputs.token_mask[row]], inputs.state[row]
        if not self.stale_prefix_s:
            self.prefix_age_s = 0.0
            captured = self.captured(images, len(tokens), max_weight(continuation))
            return captured.replay(images, tokens, state, noise, continuation)
        shape = (images.shape, images.dtype, len(tokens))
        if shape not in self._stale_prefix:
            streams = self._prefix_stream, self._loop_stream
            self._stale_prefix[shape] = StalePrefixRunner(self._network, images, len(tokens), *streams)
        actions, source = self._stale_prefix[shape].infer(
            PrefixSource(images, tokens, arrived_s),
            state,
            noise,
            self.stale_prefix_s,
            self._step_tables(),
            continuation,
        )
        self.prefix_age_s = arrived_s - source.arrived_s
        return actions

    def _step_tables(self) -> StepTables:
        times = tuple(self.times.tolist())
        if times not in self._tables:
            self._tables[times] = step_tables(self._model, self.times, self._network.device)
        return self._tables[times]


def check_cuda_scheme(scheme: Scheme, capability: tuple[int, int]) -> None:
    """Raises `EngineError` where a GPU of this compute capability cannot run the scheme, and names one that it can."""
    if scheme == FP32:
        raise EngineError('the CUDA engine computes in 16 bits, not fp32; use scheme="bf16" or engine="reference"')
    for rule in scheme.rules:
        check_cuda_rule(rule)
        if rule.activations is not None and rule.activations.kind == "e4m3" and capability < FP8_GEMM_CAPABILITY:
            raise EngineError(
                f"{scheme.name} needs FP8 tensor cores of Hopper or Thor, and this GPU is sm_{capability[0]}"
                f"{capability[1]}; use fp8-w8a16 (the same weights, 16-bit activations) or orin"
            )


def check_sizes(config: Pi0Config) -> None:
    """Raises `EngineError` where the kernels are not compiled for these sizes."""
    head_dim, vision_head_dim = config.prefix.head_dim, config.vision.width // config.vision.heads
    if head_dim not in HEAD_DIMS or vision_head_dim not in VISION_HEAD_DIMS:
        raise EngineError(
            f"the CUDA kernels are made for heads of {_either(HEAD_DIMS)} and vision heads of "
            f'{_either(VISION_HEAD_DIMS)}, and this policy has {head_dim} and {vision_head_dim}; use engine="cpu"'
        )


def _either(sizes: tuple[int, int]) -> str:
    return f"{sizes[0]} or {sizes[1]}"


def check_stale_prefix(config: Pi0Config, limit_s: float) -> None:
    """Raises `EngineError` where chunks cannot be planned from older images."""
    if not 0 < limit_s < float("inf"):
        raise EngineError(f"a stale prefix of {limit_s:g} s was allowed; expected a positive number of seconds")
    if config.variant != "pi0":
        raise EngineError("π0.5 reads the state from its prompt, so an old prefix would hold an old state; use π0")
