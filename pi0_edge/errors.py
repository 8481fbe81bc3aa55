"""The errors of the whole project: `Pi0EdgeError` is their one root.

Every message says what was found, what was expected and what to do; the command line prints it as it is. Errors that
only the bridge raises are in `firmware_bridge.errors` and derive from the same root. Nothing is imported here.
"""


class Pi0EdgeError(Exception):
    """Base of every error that pi0_edge and firmware_bridge raise on purpose."""


class ConfigError(Pi0EdgeError):
    """A configuration value, argument or combination of arguments is not possible."""


class CheckpointError(Pi0EdgeError):
    """A checkpoint is missing, incomplete, damaged or not of the detected family."""


class BundleError(Pi0EdgeError):
    """A bundle is incomplete, changed, of another format, not signed as required, or its gate did not pass."""


class ObservationError(Pi0EdgeError):
    """An observation (image, state, prompt) has the wrong shape, type or values."""


class CameraError(Pi0EdgeError):
    """A camera cannot be opened, gives no image that can be used, or its images were taken too far apart."""


class DeployError(Pi0EdgeError):
    """A release cannot be signed, sent, installed, tried or taken back."""


class TrustError(DeployError):
    """A release is not the one that its keys signed, is older than what the robot had, or its signatures expired."""


class DatasetError(Pi0EdgeError):
    """A dataset is missing, truncated, of an unknown version or inconsistent."""


class TrainingError(Pi0EdgeError):
    """A training run cannot go on: its loss or gradients are not finite numbers, or a process of it was killed."""


class BenchError(Pi0EdgeError):
    """A latency cannot be measured, or a result of a bench cannot be used."""


class RecordingError(Pi0EdgeError):
    """A recording of a run cannot be written, or what is read as one is none, is damaged or lacks what is asked for."""


class QuantizationError(Pi0EdgeError):
    """A scheme does not exist, a layer cannot be quantized, or a quantized layer met values it cannot represent."""


class EngineError(Pi0EdgeError):
    """An inference engine cannot run the policy on this machine."""


class KernelError(EngineError):
    """A CUDA kernel cannot run: the library is not built, there is no GPU, or the sizes are not possible."""


class MissingDependencyError(Pi0EdgeError):
    """An optional package or a system library that this feature needs is not installed."""


class EndpointError(Pi0EdgeError):
    """A service cannot be offered or reached as asked: a file for TLS, an address or a port is wrong."""


class ServingError(Pi0EdgeError):
    """The policy server cannot listen, cannot be reached or did not answer."""


class BusyError(ServingError):
    """Too many observations wait for the policy already."""


class DeadlineError(ServingError):
    """The client's deadline passed before its chunk was made."""


class StoppingError(ServingError):
    """The policy server is shutting down, and answers no more."""
