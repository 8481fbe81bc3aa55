# pyright: reportMissingImports=false
"""The settings of the policy; LeRobot makes a flag `--policy.NAME` of each and finds this file by its name.

It imports neither pi0-edge nor gRPC: LeRobot only logs an import that fails here, and then says that it does not know
the type. What is missing or wrong is said when the policy is made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lerobot.configs.policies import PreTrainedConfig


@PreTrainedConfig.register_subclass("pi0_edge")
@dataclass
class Pi0EdgeConfig(PreTrainedConfig):
    """Where the policy server is, and how the robot's names and units map to those of its policy.

    Attributes:
        server: host:port of `pi0-edge serve`.
        tls: Folder with authority, certificate and key, where the server asks for a certificate.
        timeout_s: Deadline of every call, s.
        connect_timeout_s: How long the server may take to be ready at the start, s.
        cameras: Name of the robot's camera -> camera of the policy; an empty text leaves the camera out. Cameras that
            are not listed keep their name.
        joints: Names of the policy's joints in the order of the robot, where LeRobot does not tell the robot's names.
        joint_units: `robot` where the robot has the policy's units, `degrees` for an arm of LeRobot with
            `use_degrees=true`. Needed for joints of the names of LeRobot's own arms alone.
        robot: Name or YAML file of the policy's robot in pi0-edge; it says the units that degrees become.
        prompt: Said to the policy instead of LeRobot's task.
        n_action_steps: Rows of a chunk that `select_action` executes before it asks again; all where None.
        jpeg_quality: Sends images as JPEG of this quality, 1 to 100; as they are where None.
    """

    server: str = "127.0.0.1:50051"
    tls: str | None = None
    timeout_s: float = 30.0
    connect_timeout_s: float = 20.0
    cameras: dict[str, str] = field(default_factory=dict)
    joints: list[str] = field(default_factory=list)
    joint_units: str | None = None
    robot: str | None = None
    prompt: str | None = None
    n_action_steps: int | None = None
    jpeg_quality: int | None = None
    device: str | None = "cpu"
    push_to_hub: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # LeRobot's rollout and its real-time chunking write it there; no flag, so no field.
        self.rtc_config: Any = None

    @property
    def observation_delta_indices(self) -> None:
        """Only the present moment is observed."""
        return None

    @property
    def action_delta_indices(self) -> None:
        """Nothing is trained here."""
        return None

    @property
    def reward_delta_indices(self) -> None:
        """Nothing is trained here."""
        return None

    def get_optimizer_preset(self) -> Any:
        """Refuses: the policy is trained with `pi0-edge train`.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("a pi0_edge policy asks a server and cannot be trained; use `pi0-edge train`")

    def get_scheduler_preset(self) -> None:
        """Nothing is trained here."""
        return None

    def validate_features(self) -> None:
        """Nothing: names and shapes are checked against the server's policy when the policy is made."""
