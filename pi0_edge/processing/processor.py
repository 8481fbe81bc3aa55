"""One robot's observations to model inputs, and the policy's chunks back to that robot's commands.

The order is openpi's: robot's joint convention, then (actions) relative to the state, then normalization, then padding
to the network's width; the way back is the reverse. Padded dimensions are zero, as the network was trained.
"""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pi0_edge.errors import ConfigError, EngineError, ObservationError
from pi0_edge.model.config import Pi0Config
from pi0_edge.model.inputs import ModelInputs
from pi0_edge.processing.actions import delta_mask, to_absolute, to_delta
from pi0_edge.processing.description import ProcessingDescription
from pi0_edge.processing.images import frames_of_one_size, network_image
from pi0_edge.processing.joint_conventions import CONVENTIONS
from pi0_edge.processing.norm_stats import to_json
from pi0_edge.processing.normalization import Normalization, Normalizer
from pi0_edge.processing.observation import Observation, checked_images, checked_prompt, checked_state
from pi0_edge.processing.prompts import prompt_tokens
from pi0_edge.processing.settings import ProcessingSettings, StillJoints
from pi0_edge.processing.tokenizer import Tokenizer
from pi0_edge.processing.trained_range import TrainedRange, UnfitState
from pi0_edge.robots import Robot

MOST_WARNINGS = 100
"""Of different prompts that are cut; whoever asks a server can invent any number of them."""

logger = logging.getLogger(__name__)


class ObservationProcessor:
    """Both directions between a robot and the network.

    Attributes:
        robot: The robot's layout.
        tokenizer: The policy's tokenizer.
        normalization: The policy's statistics.
        config: Sizes of the network.
        settings: Choices that weights do not show; openpi's for the variant where None.

    Raises:
        ConfigError: If robot, statistics and network do not fit together.
    """

    def __init__(
        self,
        robot: Robot,
        tokenizer: Tokenizer,
        normalization: Normalization,
        config: Pi0Config,
        settings: ProcessingSettings | None = None,
    ) -> None:
        self.robot = robot
        self.tokenizer = tokenizer
        self.normalization = normalization
        self.config = config
        self.settings = ProcessingSettings.of_openpi(config.variant) if settings is None else settings
        self._cut_prompts: set[str] = set()
        self._convention = CONVENTIONS[robot.joint_convention]
        self._delta = delta_mask(robot.delta_actions)
        self._check_cameras()
        self._check_widths()
        self._trained_range = TrainedRange(
            robot, normalization.state, still_as_trained=self.settings.still_joints is StillJoints.AS_TRAINED
        )

    def unfit_state(self, observation: Observation) -> UnfitState | None:
        """What of the state is outside of all that the policy was trained on, or None where nothing is.

        Raises:
            ObservationError: If the state is not a vector of `state_dim` finite numbers.
        """
        return self._trained_range.misfit(checked_state(observation, self.robot))

    def trained_state(self) -> NDArray[np.float64]:
        """A state as the policy was trained on, float64 [state_dim] in the robot's units: the middle of its range."""
        return self._trained_range.middle

    def to_model_inputs(self, observation: Observation, as_frames: bool = False) -> ModelInputs:
        """Checks one observation and converts it into a batch of one.

        Only the cameras that are there and the real prompt tokens are contained: the others would be masked anyway.

        Args:
            observation: Images, joint state and prompt.
            as_frames: For an engine that takes frames, see `ModelInputs.images`. It gets finished images nevertheless
                where the settings are not what it does to frames.

        Raises:
            ObservationError: If anything in it has the wrong type, shape, name or value.
        """
        frames = checked_images(observation, self.robot).values()
        state = self._normalized_state(observation)
        tokens = self._tokens(checked_prompt(observation, self.robot), state)
        size = self.config.vision.image_size
        if as_frames and self.settings.an_engine_may_scale:
            images = frames_of_one_size(list(frames), size)
        else:
            images = np.stack([network_image(frame, size, self.settings) for frame in frames])
        return ModelInputs(
            images=torch.from_numpy(images)[None],
            image_mask=torch.ones(1, len(images), dtype=torch.bool),
            tokens=torch.tensor([tokens], dtype=torch.int64),
            token_mask=torch.ones(1, len(tokens), dtype=torch.bool),
            state=torch.from_numpy(self._padded(state[None])),
        )

    def to_physical(self, actions: ArrayLike, observation: Observation) -> NDArray[np.float64]:
        """Turns a chunk of the network into commands.

        Args:
            actions: Normalized, [horizon, action_dim of the network].
            observation: The one the chunk answers; relative actions are relative to its state.

        Returns:
            float64 [horizon, action_dim of the robot], in the robot's units.

        Raises:
            EngineError: If the chunk has another shape or values that are not finite.
            ObservationError: If the state is wrong.
        """
        chunk = np.asarray(actions, np.float64)
        if chunk.ndim != 2 or chunk.shape[1] != self.config.action_dim:
            raise EngineError(f"a chunk has shape {list(chunk.shape)}, expected [rows, {self.config.action_dim}]")
        if not np.all(np.isfinite(chunk)):
            raise EngineError(
                f"a chunk has {int(np.sum(~np.isfinite(chunk)))} values that are not finite; execute none"
            )
        state = self._convention.state_to_pi(checked_state(observation, self.robot))
        physical = self.normalization.actions.inverse(chunk)[:, : self.robot.action_dim]
        return self._convention.actions_to_robot(to_absolute(physical, state, self._delta))

    def to_normalized(self, actions: ArrayLike, observation: Observation) -> NDArray[np.float32]:
        """Turns recorded commands into training targets; the inverse of `to_physical`.

        Args:
            actions: [rows, action_dim of the robot], in the robot's units.
            observation: The one the rows follow.

        Returns:
            float32 [rows, action_dim of the network], zero-padded.
        """
        commands, width = np.asarray(actions, np.float64), self.robot.action_dim
        if commands.ndim != 2 or commands.shape[1] != width:
            raise ObservationError(
                f"actions has shape {list(commands.shape)}, expected [rows, {width}] of {self.robot.name}"
            )
        state = self._convention.state_to_pi(checked_state(observation, self.robot))
        delta = to_delta(self._convention.actions_to_pi(commands), state, self._delta)
        return self._padded(self.normalization.actions.forward(delta))

    def description(self) -> ProcessingDescription:
        """What `save_checkpoint` and `write_bundle` record, and `restore_processor` reads.

        Where the robot's cameras are plugged in and how late its chunks may be is left out: that belongs to one robot,
        and a URL can hold a password.
        """
        normalizers = {"state": self.normalization.state, "actions": self.normalization.actions}
        settings = self.settings.to_dict()
        robot = dataclasses.asdict(self.robot)
        del robot["camera_sources"], robot["latency"]
        return ProcessingDescription(
            robot=robot,
            normalization={n: {"mode": field.mode.value, "eps": field.eps} for n, field in normalizers.items()},
            prompt_style=settings.pop("prompt_style"),
            settings=settings,
            norm_stats=to_json({name: normalizer.stats for name, normalizer in normalizers.items()}),
            tokenizer=self.tokenizer.source,
        )

    def _normalized_state(self, observation: Observation) -> NDArray[np.float64]:
        state = self._convention.state_to_pi(checked_state(observation, self.robot))
        normalized = self.normalization.state.forward(state)
        if self.settings.still_joints is StillJoints.AS_TRAINED:
            normalized[self._trained_range.still] = self.normalization.state.normalized_centre
        return normalized

    def _tokens(self, prompt: str, state: NDArray[np.float64]) -> list[int]:
        settings = self.settings
        if settings.prompt_state_padded:
            state = np.pad(state, (0, self.config.action_dim - len(state)))
        tokens = prompt_tokens(self.tokenizer, prompt, state, settings.prompt_style, settings.prompt_cleaning)
        limit = self.config.max_prompt_tokens
        if len(tokens) > limit and not settings.truncate_prompts:
            raise ObservationError(
                f"prompt has {len(tokens)} tokens, expected at most {limit}: {prompt[:60]!r}; shorten it, or give the "
                "setting truncate_prompts (--truncate-prompts), which cuts its end off"
            )
        if max(tokens) >= self.config.vocab_size:
            raise ConfigError(
                f"{self.tokenizer.source} gives the token {max(tokens)}, expected ids below {self.config.vocab_size}; "
                "use the tokenizer the policy was trained with"
            )
        is_new = prompt not in self._cut_prompts and len(self._cut_prompts) < MOST_WARNINGS
        if len(tokens) > limit and is_new:
            self._cut_prompts.add(prompt)
            logger.warning(
                "the last %d of %d tokens are cut off from the prompt %r: the policy takes %d",
                len(tokens) - limit,
                len(tokens),
                prompt[:60],
                limit,
            )
        return tokens[:limit]

    def _padded(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        padded = np.zeros((len(values), self.config.action_dim), np.float32)
        padded[:, : values.shape[1]] = values
        return padded

    def _check_cameras(self) -> None:
        if not self.robot.cameras:
            raise ConfigError(f"{self.robot.name} has no cameras; a policy needs at least one, mapped to a slot")

    def _check_widths(self) -> None:
        widths = {"state": self.robot.state_dim, "actions": self.robot.action_dim}
        normalizers: dict[str, Normalizer] = {"state": self.normalization.state, "actions": self.normalization.actions}
        for name, width in widths.items():
            if width > self.config.action_dim:
                raise ConfigError(f"{self.robot.name} has {width} {name}, the network at most {self.config.action_dim}")
            dims = normalizers[name].dims
            if dims is not None and dims < width:
                raise ConfigError(
                    f"the statistics of {name} ({normalizers[name].mode.value}) have {dims} dimensions, but "
                    f"{self.robot.name} has {width}; give the statistics of this robot"
                )
