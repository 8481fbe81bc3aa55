"""The interface of every engine.

An engine runs a network: model inputs go in, normalized actions come out. It knows nothing of robots, files or
connections. All engines start from the same noise, so that any two can be compared action by action.

An engine takes ownership of the model that it is made from: it may pack, move, rewrite or delete the layers. Save or
use a model before it goes into an engine, not afterwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from pi0_edge.errors import EngineError
from pi0_edge.heads import require_flow
from pi0_edge.latency.stages import StageCallback, not_timed
from pi0_edge.model import Continuation, ModelInputs, Pi0Config, PolicyNetwork
from pi0_edge.quant.schemes import Scheme


class Engine(ABC):
    """A network that is ready to run.

    Attributes:
        name: The key in `pi0_edge.engine.ENGINES`.
        default_scheme: The scheme where the user names none.
        packs_weights: Whether quantized layers are packed for the CPU as soon as they are complete.
        runs_every_head: Whether it runs networks with any head of `pi0_edge.heads`, and not flow matching alone.
        takes_frames: Whether it scales camera images itself, see `ModelInputs.images`; it takes scaled ones as well.
        max_batch: How many observations it takes in one pass; an engine of 1 runs the rows of a batch one after the
            other, which saves nothing.
        has_frozen_prefix: Whether it continues a chunk by frozen actions (`FrozenPrefix`), and not by guidance alone.
        has_stale_prefix: Whether the class implements `allow_stale_prefix`.
        prefix_age_s: By how many seconds the images that the last chunk was planned from were older than its inputs;
            0 unless `allow_stale_prefix` was called.
        tells_stages: Whether the class calls `on_stage`; one that runs all of them as one graph cannot.
        on_stage: Hears when each stage of the network and each Euler step is over.
        device_ms: How long the last chunk took on the GPU, between two events there; None where there is no GPU, or
            the chunk was not one graph.
        scheme: Name of the scheme of its layers.
        config: Sizes of the network.
        times: float32 [steps], the times of the Euler steps; openpi's schedule unless replaced.
    """

    name: str
    default_scheme: Scheme
    packs_weights: bool = False
    runs_every_head: bool = False
    takes_frames: bool = False
    max_batch: int = 1
    has_frozen_prefix: bool = True
    has_stale_prefix: bool = False
    prefix_age_s: float = 0.0
    tells_stages: bool = False
    on_stage: StageCallback = staticmethod(not_timed)
    device_ms: float | None = None
    scheme: str
    config: Pi0Config
    times: Tensor

    @abstractmethod
    def __init__(self, model: PolicyNetwork, scheme: Scheme) -> None:
        """Takes ownership of a model.

        Args:
            model: Complete, and quantized under `scheme`.
            scheme: The scheme of its layers.
        """

    @classmethod  # noqa: B027 - an engine may run everything
    def check(cls, scheme: Scheme) -> None:
        """Returns if this machine can run the scheme on this engine.

        Raises:
            EngineError: If the machine or the scheme does not fit the engine.
        """

    @classmethod
    def check_network(cls, config: Pi0Config, scheme: Scheme) -> None:
        """Returns if the engine can run networks of these sizes under the scheme; asked before weights are read.

        Raises:
            EngineError: If it cannot, with every reason.
        """
        if not cls.runs_every_head:
            require_flow(config, f'engine="{cls.name}"')

    def warm_up(self, inputs: ModelInputs, noise: Tensor) -> None:
        """Makes everything ready that would make a chunk slow which is the first of its kind; then infers once.

        Args:
            inputs: An observation with all cameras of the robot; its prompt and the size of its images are any.
            noise: As in `infer`.

        Raises:
            EngineError: If the engine cannot answer even that.
        """
        self.infer(inputs, noise)

    @abstractmethod
    def infer(self, inputs: ModelInputs, noise: Tensor, continuation: Continuation | None = None) -> Tensor:
        """Runs the network once.

        Args:
            inputs: A batch of observations.
            noise: float32 [batch, horizon, action_dim], the start of the Euler integration.
            continuation: The chunk that the actions continue (real-time chunking).

        Returns:
            Normalized actions, float32 of the shape of `noise`.
        """

    def allow_stale_prefix(self, limit_s: float) -> None:
        """From now on a chunk may be planned from images up to `limit_s` seconds older than its observation.

        Raises:
            EngineError: If the engine or the network cannot do that, or the limit is not positive.
        """
        raise EngineError(f'engine="{self.name}" has no stale prefix of {limit_s:g} s; use engine="cuda"')

    def reset_prefix(self) -> None:  # noqa: B027 - most engines keep no prefix
        """The next chunk is planned from its own images, whatever prefix the engine has kept."""
