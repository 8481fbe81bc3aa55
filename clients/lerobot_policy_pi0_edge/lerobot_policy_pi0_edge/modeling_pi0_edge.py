# pyright: reportMissingImports=false
"""The policy of LeRobot: each chunk is one request to the policy server. LeRobot finds this file by its name."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from numpy.typing import NDArray

from lerobot_policy_pi0_edge.configuration_pi0_edge import Pi0EdgeConfig
from lerobot_policy_pi0_edge.continuation import make_continuation, without_padding
from lerobot_policy_pi0_edge.policy_robot import IMAGE, IMAGES, PolicyRobot
from pi0_edge.errors import ConfigError, DeadlineError, ObservationError
from pi0_edge.processing import Observation
from pi0_edge.serving.policy_client import PolicyClient

_STATE, _ACTION = "observation.state", "action"


class Pi0EdgePolicy(PreTrainedPolicy):
    """A policy without weights of its own, connected to a policy server."""

    config_class = Pi0EdgeConfig
    name = "pi0_edge"

    def __init__(self, config: Pi0EdgeConfig, dataset_meta: Any = None, **_: Any) -> None:
        """Connects, and checks that the server's policy fits the robot as far as LeRobot tells about it.

        Args:
            config: The settings; image features that LeRobot did not fill in become those of the policy.
            dataset_meta: LeRobot's description of the dataset that is recorded, which names the joints.

        Raises:
            ServingError: If no policy server is ready at the address.
            ConfigError: If its policy does not fit.
        """
        super().__init__(config)
        if config.n_action_steps is not None and config.n_action_steps < 1:
            raise ConfigError(f"--policy.n_action_steps is {config.n_action_steps}, expected at least 1")
        tls = None if config.tls is None else Path(config.tls)
        self._client = PolicyClient(config.server, config.timeout_s, tls, config.jpeg_quality)
        try:
            self._client.wait_ready(config.connect_timeout_s)
        except DeadlineError as error:
            if tls is not None:
                raise
            raise DeadlineError(f"{error} Where the server asks for certificates, give --policy.tls") from error
        self._metadata = self._client.metadata()
        features = getattr(dataset_meta, "features", {})
        self._robot = PolicyRobot(config, self._metadata, _names(features, _STATE), _names(features, _ACTION))
        if config.input_features:
            self._robot.check_shapes(_shape(config.robot_state_feature), _shape(config.action_feature))
            self._robot.cameras(list(config.image_features))
        self._requests = 0
        self._action_queue: deque[torch.Tensor] = deque()

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path | None, *, config: PreTrainedConfig | None = None, **kwargs: Any
    ) -> Pi0EdgePolicy:
        """The policy of a folder's settings, or of `config` alone. No weights are looked for.

        Args:
            pretrained_name_or_path: Folder with `config.json`, or None.
            config: Settings that replace the folder's.
            **kwargs: LeRobot's; `dataset_meta` is used.
        """
        if config is None:
            if pretrained_name_or_path is None:
                raise ConfigError("a pi0_edge policy needs its settings: a folder with config.json, or config")
            config = PreTrainedConfig.from_pretrained(pretrained_name_or_path)
        if not isinstance(config, Pi0EdgeConfig):
            raise ConfigError(f"{pretrained_name_or_path} has settings of another policy, expected pi0_edge")
        policy = cls(config, dataset_meta=kwargs.get("dataset_meta"))
        policy.eval()
        return policy

    def _save_pretrained(self, save_directory: Path) -> None:
        self.config._save_pretrained(save_directory)

    def get_optim_params(self) -> dict[str, Any]:
        """Nothing: there is nothing to train."""
        return {}

    def forward(self, batch: Mapping[str, Any]) -> Any:
        """Refuses: the policy is trained with `pi0-edge train`.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("a pi0_edge policy asks a server and cannot be trained; use `pi0-edge train`")

    def supports_rtc(self) -> bool:
        """Yes: LeRobot's real-time chunking becomes the continuation of a request."""
        return True

    def reset(self) -> None:
        """Forgets the actions that are left of the last chunk."""
        self._action_queue.clear()

    @torch.no_grad()
    def select_action(self, batch: Mapping[str, Any], **_: Any) -> torch.Tensor:
        """The next action, [rows of the batch, action_dim]; asks the server when none is left.

        Raises:
            Pi0EdgeError: As for `predict_action_chunk`.
        """
        if not self._action_queue:
            chunk = self.predict_action_chunk(batch)
            self._action_queue.extend(chunk[:, : self.config.n_action_steps].unbind(1))
        return self._action_queue.popleft()

    @torch.no_grad()
    def predict_action_chunk(
        self,
        batch: Mapping[str, Any],
        inference_delay: int | None = None,
        prev_chunk_left_over: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Chunks of actions, float32 [rows of the batch, horizon, action_dim]; one request for each row.

        Args:
            batch: `observation.state`, images as float [rows, 3, height, width] from 0 to 1, and `task`.
            inference_delay: Ticks until the chunk is executed.
            prev_chunk_left_over: [rows, action_dim] that the robot executes meanwhile; of a batch of one.

        Raises:
            ObservationError: If the batch does not fit the policy, or the server refuses it.
            ConfigError: If it has other cameras or another number of joints than the policy.
            DeadlineError: If there was no chunk within `timeout_s`.
            ServingError: If the server cannot be reached or failed.
        """
        states = _state_rows(batch)
        cameras = self._robot.cameras([key for key in batch if key == IMAGE or key.startswith(IMAGES)])
        self._robot.check_shapes(states.shape[1:], None)
        images = {camera: _pixels(key, batch[key]) for key, camera in cameras.items()}
        prompts = self._prompts(batch.get("task"), len(states))
        chunks = []
        for row, prompt in enumerate(prompts):
            state = self._robot.state(states[row])
            observation = Observation({name: pixels[row] for name, pixels in images.items()}, state, prompt)
            chunks.append(self._ask(observation, inference_delay, prev_chunk_left_over))
        return torch.from_numpy(np.stack(chunks)).to(batch[_STATE].device)

    def _ask(self, observation: Observation, delay: int | None, left_over: torch.Tensor | None) -> NDArray[np.float32]:
        """One chunk, [horizon, action_dim] in the robot's order and units."""
        continuation = None
        rtc = self.config.rtc_config
        if left_over is not None and getattr(rtc, "enabled", True):
            rows = without_padding(left_over.reshape(-1, left_over.shape[-1]).double().cpu().numpy())
            continuation = make_continuation(self._robot.plan(rows), delay or 0, self._metadata, rtc)
        tick, self._requests = self._requests, self._requests + 1
        chunk = self._client.infer(observation, tick, time.monotonic_ns(), continuation=continuation)
        actions = np.array(chunk.actions, np.float32).reshape(chunk.horizon, chunk.action_dim)
        return self._robot.actions(actions).astype(np.float32)

    def _prompts(self, tasks: Any, rows: int) -> list[str | None]:
        if self.config.prompt is not None:
            return [self.config.prompt] * rows
        if isinstance(tasks, str) or tasks is None:
            tasks = [tasks] * rows
        if len(tasks) != rows or not all(isinstance(task, (str, type(None))) for task in tasks):
            raise ObservationError(f"task is {tasks!r}, expected a text for each of {rows} rows")
        return [task or None for task in tasks]


def _state_rows(batch: Mapping[str, Any]) -> NDArray[np.float64]:
    state = batch.get(_STATE)
    if not isinstance(state, torch.Tensor) or state.ndim != 2:
        found = "missing" if state is None else f"of the shape {list(getattr(state, 'shape', []))}"
        raise ObservationError(f"{_STATE} is {found}; expected [rows, joints]")
    return state.double().cpu().numpy()


def _pixels(key: str, image: torch.Tensor) -> NDArray[np.uint8]:
    """LeRobot's images as the camera delivered them, uint8 [rows, height, width, 3]."""
    if image.ndim != 4 or image.shape[1] != 3:
        raise ObservationError(f"{key} has the shape {list(image.shape)}; expected [rows, 3, height, width]")
    if image.dtype != torch.uint8:
        image = (image * 255).round().clamp(0, 255).to(torch.uint8)
    return image.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _names(features: Mapping[str, Any], key: str) -> list[str] | None:
    """Names of a dataset's feature; None where it has none."""
    names = features.get(key, {}).get("names")
    return list(names) if isinstance(names, (list, tuple)) else None


def _shape(feature: Any) -> tuple[int, ...] | None:
    return None if feature is None else tuple(feature.shape)
