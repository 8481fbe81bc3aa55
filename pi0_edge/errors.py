"""The errors a user of pi0_edge can meet, one class per thing that can be wrong.

Every message says what was wrong (with the value found), what was expected and what to do.
"""


class Pi0EdgeError(Exception):
    """Base of every error pi0_edge raises on purpose."""


class ConfigError(Pi0EdgeError):
    """A configuration value, option or combination of options is not possible."""


class CheckpointError(Pi0EdgeError):
    """A checkpoint is missing, incomplete, damaged or not of the detected family."""


class BundleError(Pi0EdgeError):
    """A bundle is incomplete, changed, of another format, not signed as required, or its gate did not pass."""


class ObservationError(Pi0EdgeError):
    """An observation (image, state, prompt) has the wrong shape, type or values."""


class DatasetError(Pi0EdgeError):
    """A dataset is missing, truncated, of an unknown version or inconsistent."""


class EngineError(Pi0EdgeError):
    """An inference engine cannot run the policy on this machine."""


class MissingDependencyError(Pi0EdgeError):
    """An optional package or a system library that this feature needs is not installed."""


class KernelError(EngineError):
    """A CUDA kernel cannot run: the library is not built, there is no GPU, or the sizes are not possible."""
