"""The CUDA engine: one graph from the observation to the actions, per number of cameras and of prompt tokens.

A graph holds pictures, prompt, state and noise in buffers of its own, and behind them the whole sequence of
`cuda_network`: vision, prefix and all Euler steps. It is captured when a shape first appears, which takes about a
second, and replayed ever after: no allocation and no Python between the inputs and the actions.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from pi0_edge.engine.cuda_network import CudaNetwork
from pi0_edge.engine.cuda_products import check_rule
from pi0_edge.engine.cuda_tables import StepTables, step_tables
from pi0_edge.errors import EngineError
from pi0_edge.kernels.library import kernel_library
from pi0_edge.model import ModelInputs, Pi0, Pi0Config
from pi0_edge.model.continuation import Continuation, Guidance
from pi0_edge.model.flow import EULER_STEPS, euler_times
from quant.schemes import FP32, ORIN, Scheme

HEAD_DIMS = (256, 72)
"""Of prefix and expert, and of the vision tower, that the attention kernel is compiled for."""
FP8_CAPABILITY = (9, 0)
"""The first GPU that our FP8 product is compiled for: Hopper, then Thor."""


class CapturedChunk:
    """One graph for one shape, with its buffers.

    Attributes:
        graph: Kept after it was instantiated, so that its nodes can be counted.
    """

    def __init__(
        self,
        network: CudaNetwork,
        tables: StepTables,
        cameras: int,
        tokens: int,
        stream: torch.cuda.Stream,
        max_weight: float | None = None,
    ) -> None:
        """Runs the sequence once, which loads kernels and makes their workspaces, and captures it.

        Args:
            network: The weights.
            tables: Of the times of the steps.
            cameras: Pictures of an observation.
            tokens: Of its prompt.
            stream: To capture on.
            max_weight: Limit of the guidance of chunks that continue another one; None where they continue none.
        """
        config, device = network.config, network.device
        size = config.vision.image_size
        self._images = torch.zeros(cameras, 3, size, size, device=device)
        self._tokens = torch.zeros(tokens, dtype=torch.int64, device=device)
        self._state = torch.zeros(config.action_dim, device=device)
        self._noise = torch.zeros(config.horizon, config.action_dim, device=device)
        plan = torch.zeros(2, config.horizon, config.action_dim, device=device)
        self._guidance = None if max_weight is None else Guidance(plan[0], plan[1], max_weight)
        self.graph = torch.cuda.CUDAGraph(keep_graph=True)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            self._run(network, tables)
        stream.synchronize()
        with torch.cuda.graph(self.graph, stream=stream):
            self._actions = self._run(network, tables)
        self.graph.instantiate()

    def replay(
        self, images: Tensor, tokens: Tensor, state: Tensor, noise: Tensor, guidance: Guidance | None = None
    ) -> Tensor:
        """Actions float32 [horizon, action_dim] on the CPU, from an observation and noise of the captured shape.

        `guidance` is given exactly where the graph was captured with one.
        """
        given = [images, tokens, state, noise]
        buffers = [self._images, self._tokens, self._state, self._noise]
        if self._guidance is not None and guidance is not None:
            given += [guidance.previous.squeeze(0), guidance.weights]
            buffers += [self._guidance.previous, self._guidance.weights]
        for own, new in zip(buffers, given, strict=True):
            own.copy_(new, non_blocking=True)
        self.graph.replay()
        return self._actions.cpu()

    @property
    def nodes(self) -> int:
        """Kernels, copies and fills in the graph."""
        count = ctypes.c_size_t()
        driver = ctypes.CDLL("libcuda.so.1")
        error = driver.cuGraphGetNodes(ctypes.c_void_p(self.graph.raw_cuda_graph()), None, ctypes.byref(count))
        if error:
            raise EngineError(f"the nodes of a CUDA graph cannot be counted: error {error} of the driver")
        return count.value

    def _run(self, network: CudaNetwork, tables: StepTables) -> Tensor:
        cache = network.attend(self._images, self._tokens, self._state)
        actions = self._noise.clone()
        network.integrate(actions, cache, tables, self._guidance)
        return actions


class CudaEngine:
    """The network on a GPU, in 16 bits where the scheme leaves it alone."""

    name = "cuda"
    default_scheme = ORIN

    def __init__(self, model: Pi0, scheme: Scheme = ORIN) -> None:
        """Moves the weights of `model` to the GPU; it cannot be used or saved afterwards.

        Args:
            model: Quantized under `scheme`, not packed.
            scheme: How.

        Raises:
            EngineError: If there is no GPU, or none that runs this scheme or this network.
        """
        require_cuda(scheme)
        check_sizes(model.config)
        self._model = model.eval()  # what depends on time alone stays in it
        self.config = model.config
        self.scheme = scheme.name
        self.times = euler_times(EULER_STEPS)
        self._network = CudaNetwork(model, torch.device("cuda", torch.cuda.current_device()))
        self._stream = torch.cuda.Stream(self._network.device)
        self._captured: dict[tuple[object, ...], CapturedChunk] = {}

    @torch.inference_mode()
    def infer(self, inputs: ModelInputs, noise: Tensor, continuation: Continuation | None = None) -> Tensor:
        """Normalized actions, float32 [batch, horizon, action_dim], from noise of the same shape.

        Rows of a batch are run one after the other: a robot has one.

        Raises:
            EngineError: If an action is NaN or infinite, or the continuation is not guidance.
        """
        if continuation is not None and not isinstance(continuation, Guidance):
            raise EngineError("the CUDA engine continues a chunk by guidance only; use --splice rtc, or --engine cpu")
        actions = torch.stack([self._infer_row(inputs, row, noise[row], continuation) for row in range(inputs.batch)])
        if not torch.isfinite(actions).all():
            raise EngineError("the network's actions contain NaN or infinity; check the observation, then the weights")
        return actions

    @torch.inference_mode()
    def captured(self, cameras: int, tokens: int, max_weight: float | None = None) -> CapturedChunk:
        """The graph of a shape, with guidance where `max_weight` limits it, captured now if it is new."""
        shape = (cameras, tokens, max_weight, tuple(self.times.tolist()))
        if shape not in self._captured:
            tables = step_tables(self._model, self.times, self._network.device)
            self._captured[shape] = CapturedChunk(self._network, tables, cameras, tokens, self._stream, max_weight)
        return self._captured[shape]

    def _infer_row(self, inputs: ModelInputs, row: int, noise: Tensor, guidance: Guidance | None) -> Tensor:
        images = inputs.images[row][inputs.image_mask[row]]
        tokens = inputs.tokens[row][inputs.token_mask[row]]
        captured = self.captured(len(images), len(tokens), None if guidance is None else guidance.max_weight)
        return captured.replay(images, tokens, inputs.state[row], noise, guidance)


def require_cuda(scheme: Scheme) -> None:
    """Raises `EngineError` where this machine has no GPU that runs the scheme."""
    if not torch.cuda.is_available():
        build = "a CPU build" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
        raise EngineError(f"the CUDA engine needs a CUDA device, and torch ({build}) sees none; use --engine cpu")
    kernel_library().require_device()
    check_scheme(scheme, torch.cuda.get_device_capability())


def check_scheme(scheme: Scheme, capability: tuple[int, int]) -> None:
    """Raises `EngineError` where a GPU of this compute capability cannot run the scheme, and names one that it can."""
    if scheme == FP32:
        raise EngineError("the CUDA engine computes in 16 bits, not fp32; use the scheme bf16 or --engine reference")
    for rule in scheme.rules:
        check_rule(rule)
        if rule.activations is not None and rule.activations.kind == "e4m3" and capability < FP8_CAPABILITY:
            raise EngineError(
                f"{scheme.name} needs FP8 tensor cores of Hopper or Thor, and this GPU is sm_{capability[0]}"
                f"{capability[1]}; use fp8-w8a16 (the same weights, 16-bit activations) or orin"
            )


def check_sizes(config: Pi0Config) -> None:
    """Raises `EngineError` where the kernels are not compiled for these sizes."""
    head_dims = (config.prefix.head_dim, config.vision.width // config.vision.heads)
    if head_dims != HEAD_DIMS:
        raise EngineError(
            f"the CUDA kernels are made for heads of {HEAD_DIMS[0]} and vision heads of {HEAD_DIMS[1]}, and this "
            f"policy has {head_dims[0]} and {head_dims[1]}; use --engine cpu"
        )
