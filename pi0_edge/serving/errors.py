"""The errors between a policy server and its clients."""

from pi0_edge.errors import Pi0EdgeError


class ServingError(Pi0EdgeError):
    """The policy server cannot listen, cannot be reached or did not answer."""


class BusyError(ServingError):
    """Too many observations wait for the policy already."""


class DeadlineError(ServingError):
    """The client's deadline passed before its chunk was made."""
