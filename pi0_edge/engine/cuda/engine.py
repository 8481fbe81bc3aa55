"""The CUDA engine: one graph from the observation to the actions.

A graph holds patches of images, prompt, state and noise in buffers of its own, and behind them the whole sequence of
`network`: vision, prefix and all Euler steps. Everything that changes while a robot works is a value in a buffer: the
camera images, whatever their size; the prompt, up to the places that the graph has for tokens; the state, which π0.5
has in its prompt; what a chunk continues, by guidance or by a frozen prefix, or nothing. So `warm_up` captures all
graphs that a robot needs, each takes about a second, and none is captured after that: what still comes with another
number of cameras is run kernel by kernel, slower but at once. An engine that was not warmed up captures what it is
asked for.

Where an old prefix is allowed, it is two graphs on two streams instead (`stale_prefix`).
"""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from torch import Tensor

from pi0_edge.engine.cuda.graphs import CudaStream, LoopStage, PrefixStage, WholeChunk
from pi0_edge.engine.cuda.linears import check_cuda_rule
from pi0_edge.engine.cuda.network import CudaNetwork, StepTables, step_tables
from pi0_edge.engine.cuda.recent import Recent
from pi0_edge.engine.cuda.sizes import all_prompt_places, check_sizes, prompt_places
from pi0_edge.engine.cuda.stale_prefix import PrefixSource, StalePrefixRunner
from pi0_edge.engine.engine import Engine
from pi0_edge.errors import EngineError
from pi0_edge.kernels.library import kernel_library
from pi0_edge.model import ModelInputs, Pi0, Pi0Config
from pi0_edge.model.flow import EULER_STEPS, euler_times
from pi0_edge.model.rtc import Continuation, FrozenPrefix, Guidance
from pi0_edge.quant.schemes import FP32, ORIN, Scheme

logger = logging.getLogger(__name__)

GRAPHS = 8
"""Whole chunks that stay captured, and as many prefixes with their loops: the prompts of two numbers of cameras."""
STEP_TABLES = 4
"""Sets of times of Euler steps whose tables are kept."""
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
        check_sizes(model.config, scheme)
        self._model = model.eval()  # what depends on time alone stays in it
        self.config = model.config
        self.scheme = scheme.name
        self.times = euler_times(EULER_STEPS)
        self.stale_prefix_s = self.prefix_age_s = 0.0
        self._network = CudaNetwork(model, torch.device("cuda", torch.cuda.current_device()))
        # One for whole chunks and two for re-planning: workspaces belong to a stream.
        self._stream, self._prefix_stream = CudaStream(self._network.device), CudaStream(self._network.device)
        self._loop_stream = CudaStream(self._network.device, urgent=True)
        self._tables: Recent[tuple[float, ...], StepTables] = Recent(STEP_TABLES)
        self._chunks: Recent[_Shape, WholeChunk] = Recent(GRAPHS)
        self._stale_prefix: Recent[_Shape, StalePrefixRunner] = Recent(GRAPHS, StalePrefixRunner.finish)
        self._warm = False
        self._told: set[tuple[int, int]] = set()

    @classmethod
    def check(cls, scheme: Scheme) -> None:
        """As `Engine`."""
        if not torch.cuda.is_available():
            build = "a CPU build" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
            raise EngineError(f'the CUDA engine needs a CUDA device, and torch ({build}) sees none; use engine="cpu"')
        kernel_library().require_device()
        check_cuda_scheme(scheme, torch.cuda.get_device_capability())

    @classmethod
    def check_network(cls, config: Pi0Config, scheme: Scheme) -> None:
        """As `Engine`."""
        super().check_network(config, scheme)
        check_sizes(config, scheme)

    def allow_stale_prefix(self, limit_s: float) -> None:
        """As `Engine`.

        Raises:
            EngineError: If the limit is not positive, or the network has its state in the prompt (π0.5).
        """
        check_stale_prefix(self.config, limit_s)
        self._warm = False  # other graphs than before
        self.stale_prefix_s = limit_s

    def reset_prefix(self) -> None:
        """As `Engine`: another robot asks, or the last chunk failed."""
        for replanning in self._stale_prefix.values():
            replanning.reset()

    @torch.inference_mode()
    def warm_up(self, inputs: ModelInputs, noise: Tensor) -> None:
        """As `Engine`: captures the graphs of this number of cameras for every length of a prompt.

        From then on no graph is captured. Call it after `allow_stale_prefix`, where that is called.
        """
        cameras, tables = int(inputs.image_mask[0].sum()), self._step_tables()
        self._warm = False
        for places in all_prompt_places(self.config):
            if self.stale_prefix_s:
                self._stale_runner((cameras, places, tables))
            else:
                self.captured(cameras, places)
        self.infer(inputs, noise)
        self.reset_prefix()
        self._warm = True

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
    def captured(self, cameras: int, tokens: int) -> WholeChunk:
        """The graph for so many cameras and a prompt of so many tokens; captured now if it is new."""
        shape = cameras, prompt_places(self.config, tokens), self._step_tables()
        return self._chunks.get(shape, lambda: self._whole_chunk(shape).captured())

    def _infer_row(
        self, inputs: ModelInputs, row: int, noise: Tensor, continuation: Continuation | None, arrived_s: float
    ) -> Tensor:
        images = inputs.images[row][inputs.image_mask[row]]
        tokens, state = inputs.tokens[row][inputs.token_mask[row]], inputs.state[row]
        self.prefix_age_s = 0.0
        shape = len(images), prompt_places(self.config, len(tokens)), self._step_tables()
        if self._warm and shape not in (self._stale_prefix if self.stale_prefix_s else self._chunks):
            self._tell_once(*shape[:2])
            return self._timed(self._whole_chunk(shape), images, tokens, state, noise, continuation)
        if not self.stale_prefix_s:
            return self._timed(self.captured(*shape[:2]), images, tokens, state, noise, continuation)
        self.device_ms = None
        newest = PrefixSource(images, tokens, arrived_s)
        actions, source = self._stale_runner(shape).infer(newest, state, noise, self.stale_prefix_s, continuation)
        self.prefix_age_s = arrived_s - source.arrived_s
        return actions

    def _timed(self, chunk: WholeChunk, *observation: Any) -> Tensor:
        actions = chunk.infer(*observation)
        self.device_ms = chunk.device_ms
        return actions

    def _whole_chunk(self, shape: _Shape) -> WholeChunk:
        cameras, places, tables = shape
        prefix = PrefixStage(self._network, cameras, places)
        return WholeChunk(prefix, LoopStage(self._network, tables, prefix.cache), self._stream)

    def _stale_runner(self, shape: _Shape) -> StalePrefixRunner:
        cameras, places, tables = shape
        streams = self._prefix_stream, self._loop_stream
        return self._stale_prefix.get(
            shape, lambda: StalePrefixRunner(self._network, tables, cameras, places, *streams)
        )

    def _tell_once(self, cameras: int, places: int) -> None:
        if (cameras, places) not in self._told:
            self._told.add((cameras, places))
            logger.warning(
                "%d cameras and a prompt of up to %d tokens: no graph was captured for them at start, and none is "
                "while a robot may move; such chunks are run kernel by kernel, which is slower",
                cameras,
                places,
            )

    def _step_tables(self) -> StepTables:
        return self._tables.get(
            tuple(self.times.tolist()), lambda: step_tables(self._model, self.times, self._network.device)
        )


_Shape = tuple[int, int, StepTables]
"""Cameras, places for tokens of the prompt, times of the Euler steps: what a graph is captured for."""


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


def check_stale_prefix(config: Pi0Config, limit_s: float) -> None:
    """Raises `EngineError` where chunks cannot be planned from older images."""
    if not 0 < limit_s < float("inf"):
        raise EngineError(f"a stale prefix of {limit_s:g} s was allowed; expected a positive number of seconds")
    if config.variant != "pi0":
        raise EngineError("π0.5 reads the state from its prompt, so an old prefix would hold an old state; use π0")
