"""Whether the policy that is served is one for the robot that the parameters describe; asked before anything moves."""

from __future__ import annotations

from dataclasses import dataclass

from firmware_bridge.splice import Splice, client_splice
from pi0_edge.errors import ConfigError
from pi0_edge.protos.policy_pb2 import PolicyMetadata
from pi0_edge_ros.settings import Settings

_NO_POSITION = ("_velocity", "_effort", "_torque")


@dataclass(frozen=True)
class Agreement:
    """What node and policy agree on.

    Attributes:
        joints: Names in joint states and trajectories, in the order of the policy's state and actions.
        control_hz: Actions per second.
        splice: How a chunk continues the plan.
        prompt: What the policy does until a topic says otherwise; empty where only a topic can say it.
        warnings: What could not be checked, in words.
    """

    joints: tuple[str, ...]
    control_hz: float
    splice: Splice
    prompt: str
    warnings: tuple[str, ...]


def agree(settings: Settings, metadata: PolicyMetadata) -> Agreement:
    """Compares parameters and policy.

    Args:
        settings: The parameters.
        metadata: What the policy server says about its policy.

    Raises:
        ConfigError: If they do not fit; the message names the parameter, what was found and what is expected.
    """
    warnings: list[str] = []
    joints = _joints(settings, metadata, warnings)
    known = list(metadata.cameras)
    if unknown := [camera.name for camera in settings.cameras if camera.name not in known]:
        raise ConfigError(f"parameter cameras has {', '.join(unknown)}; the policy has {', '.join(known)}")
    if unused := [name for name in known if name not in {camera.name for camera in settings.cameras}]:
        warnings.append(f"the policy will not see its cameras {', '.join(unused)}: parameter cameras leaves them out")
    if metadata.overrides:
        warnings.append(f"the user of the policy server overrode: {', '.join(metadata.overrides)}")
    prompt = settings.prompt or metadata.default_prompt
    if not prompt:
        warnings.append(f"there is no prompt yet: set parameter prompt or publish one on {settings.prompt_topic}")
    return Agreement(joints, _control_hz(settings, metadata), _splice(settings, metadata), prompt, tuple(warnings))


def _joints(settings: Settings, metadata: PolicyMetadata, warnings: list[str]) -> tuple[str, ...]:
    found = settings.joints
    if metadata.state_dim != metadata.action_dim:
        raise ConfigError(
            f"the policy has {metadata.state_dim} values of state and {metadata.action_dim} actions; this node serves "
            "policies whose state and actions are the positions of the same joints"
        )
    if len(found) != metadata.action_dim:
        raise ConfigError(
            f"parameter joints has {len(found)} names, expected {metadata.action_dim}: {_named(metadata)}"
        )
    names = list(metadata.action_names)
    if not names:
        if not settings.trust_joint_order:
            raise ConfigError(
                "the policy does not name its joints, so that their order cannot be checked; compare parameter joints "
                "with the robot that the policy was trained on, and set trust_joint_order to true"
            )
        warnings.append("the policy does not name its joints: the order of parameter joints is taken on trust")
        return found
    if other := [name for name in names if name.endswith(_NO_POSITION)]:
        raise ConfigError(
            f"the policy commands {', '.join(other)}, and a trajectory of this node has positions: use another policy"
        )
    if unknown := [name for name in settings.joint_map if name not in names]:
        raise ConfigError(f"parameter joint_map has {', '.join(unknown)}; the policy has {', '.join(names)}")
    mapped = [settings.joint_map.get(name, name) for name in names]
    if set(mapped) != set(found) or len(set(mapped)) != len(mapped):
        lacking = sorted(set(mapped) - set(found)) or ["nothing"]
        more = sorted(set(found) - set(mapped)) or ["nothing"]
        raise ConfigError(
            f"parameter joints is not what the policy commands: it lacks {', '.join(lacking)} and has "
            f"{', '.join(more)} instead; where the robot has other names, say so in joint_map (POLICY_NAME=ROS_NAME)"
        )
    return tuple(mapped)


def _named(metadata: PolicyMetadata) -> str:
    return ", ".join(metadata.action_names) or "one per action of the policy, which names none"


def _control_hz(settings: Settings, metadata: PolicyMetadata) -> float:
    given, recorded = settings.control_hz, metadata.control_hz if metadata.HasField("control_hz") else 0.0
    if given and recorded and given != recorded:
        raise ConfigError(f"parameter control_hz is {given:g}, but the policy was trained at {recorded:g}; remove it")
    if not (given or recorded):
        raise ConfigError("the policy does not say how many actions it makes per second; set parameter control_hz")
    return recorded or given


def _splice(settings: Settings, metadata: PolicyMetadata) -> Splice:
    name = settings.splice
    if name == "auto":
        name = "trained-rtc" if metadata.trained_delay else "rtc"
    return client_splice(name, metadata.trained_delay)
