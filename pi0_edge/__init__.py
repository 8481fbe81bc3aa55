"""π0 and π0.5 on the robot itself, quantized: from camera image to timer interrupt.

    from pi0_edge import Observation, Policy

    policy = Policy.load("checkpoint", robot="aloha", tokenizer="tokenizer.model")
    chunk = policy.infer(Observation(images={"cam_high": image}, state=joints, prompt="fold the towel"))
    chunk.actions  # float64 [50, 14], in the units of the robot

The names below are the public interface: a change of one of them is a change of the version (see CHANGELOG.md).
Everything else may change in any release. Nothing heavy is imported before it is used, and without the extra `[policy]`
the names of the bridge work all the same.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from firmware_bridge.client import BridgeClient
    from firmware_bridge.errors import BridgeError
    from pi0_edge.deploy.provisioning.provision import ProvisionRequest, provision
    from pi0_edge.deploy.transfer.robot_host import RobotHost
    from pi0_edge.deploy.trust import init_trust, rotate_key, sign_release
    from pi0_edge.errors import (
        BundleError,
        CheckpointError,
        ConfigError,
        DatasetError,
        DeployError,
        EngineError,
        ObservationError,
        Pi0EdgeError,
        QuantizationError,
        ServingError,
        TrustError,
    )
    from pi0_edge.estimation import estimate
    from pi0_edge.evaluation.rollout import evaluate
    from pi0_edge.policy import Policy, PolicyChunk
    from pi0_edge.processing.observation import Observation
    from pi0_edge.ptq.calibration import Calibration, calibrate
    from pi0_edge.ptq.pipeline import QuantizedPolicy, quantize
    from pi0_edge.ptq.verdict import Thresholds
    from pi0_edge.quant.schemes import SCHEMES, Scheme
    from pi0_edge.robots import Robot, load_robot
    from pi0_edge.run.robot_run import RobotRun
    from pi0_edge.serving.policy_client import PolicyClient
    from pi0_edge.serving.policy_server import PolicyServer
    from pi0_edge.sim.record import record
    from pi0_edge.training.run import train
    from pi0_edge.verification import verify

__version__ = "0.1.0"

_MODULES = {
    "BridgeClient": "firmware_bridge.client",
    "BridgeError": "firmware_bridge.errors",
    "BundleError": "pi0_edge.errors",
    "Calibration": "pi0_edge.ptq.calibration",
    "CheckpointError": "pi0_edge.errors",
    "ConfigError": "pi0_edge.errors",
    "DatasetError": "pi0_edge.errors",
    "DeployError": "pi0_edge.errors",
    "EngineError": "pi0_edge.errors",
    "Observation": "pi0_edge.processing.observation",
    "ObservationError": "pi0_edge.errors",
    "Pi0EdgeError": "pi0_edge.errors",
    "Policy": "pi0_edge.policy",
    "PolicyChunk": "pi0_edge.policy",
    "PolicyClient": "pi0_edge.serving.policy_client",
    "PolicyServer": "pi0_edge.serving.policy_server",
    "ProvisionRequest": "pi0_edge.deploy.provisioning.provision",
    "QuantizationError": "pi0_edge.errors",
    "QuantizedPolicy": "pi0_edge.ptq.pipeline",
    "Robot": "pi0_edge.robots",
    "RobotHost": "pi0_edge.deploy.transfer.robot_host",
    "RobotRun": "pi0_edge.run.robot_run",
    "SCHEMES": "pi0_edge.quant.schemes",
    "Scheme": "pi0_edge.quant.schemes",
    "ServingError": "pi0_edge.errors",
    "Thresholds": "pi0_edge.ptq.verdict",
    "TrustError": "pi0_edge.errors",
    "calibrate": "pi0_edge.ptq.calibration",
    "estimate": "pi0_edge.estimation",
    "evaluate": "pi0_edge.evaluation.rollout",
    "init_trust": "pi0_edge.deploy.trust",
    "load_robot": "pi0_edge.robots",
    "provision": "pi0_edge.deploy.provisioning.provision",
    "quantize": "pi0_edge.ptq.pipeline",
    "record": "pi0_edge.sim.record",
    "rotate_key": "pi0_edge.deploy.trust",
    "sign_release": "pi0_edge.deploy.trust",
    "train": "pi0_edge.training.run",
    "verify": "pi0_edge.verification",
}
"""Where each public name is defined; it is imported when the name is first used."""

__all__ = [  # noqa: RUF022 - the order of `_MODULES`
    "BridgeClient",
    "BridgeError",
    "BundleError",
    "Calibration",
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "DeployError",
    "EngineError",
    "Observation",
    "ObservationError",
    "Pi0EdgeError",
    "Policy",
    "PolicyChunk",
    "PolicyClient",
    "PolicyServer",
    "ProvisionRequest",
    "QuantizationError",
    "QuantizedPolicy",
    "Robot",
    "RobotHost",
    "RobotRun",
    "SCHEMES",
    "Scheme",
    "ServingError",
    "Thresholds",
    "TrustError",
    "calibrate",
    "estimate",
    "evaluate",
    "init_trust",
    "load_robot",
    "provision",
    "quantize",
    "record",
    "rotate_key",
    "sign_release",
    "train",
    "verify",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
