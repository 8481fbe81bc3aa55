"""The errors between a policy and the motors; all derive from `pi0_edge.errors.Pi0EdgeError`.

Every message says what was found, what was expected and what to do next; the command line prints it as it is.
"""

from pi0_edge.errors import Pi0EdgeError


class BridgeError(Pi0EdgeError):
    """Base of every error of this package."""


class PortError(BridgeError):
    """The serial port does not exist, may not be opened or is busy."""


class LinkError(BridgeError):
    """The microcontroller does not answer, or the link was lost."""


class ProtocolError(BridgeError):
    """The firmware speaks another version of the serial messages or holds another joint table."""


class ChunkError(BridgeError):
    """A chunk of actions cannot be played: wrong shape, not finite or beyond a joint limit.

    Attributes:
        malformed: True where the shape is wrong (a mistake of the sender's code), False where a value is.
    """

    def __init__(self, message: str, *, malformed: bool = False) -> None:
        super().__init__(message)
        self.malformed = malformed


class StateError(BridgeError):
    """The arm is in a state that forbids the command, or its joints are not those that the client commands."""


class LeaseError(BridgeError):
    """Another client holds the arm, or this client no longer does."""


class CalibrationError(BridgeError):
    """What was measured of the joints cannot be their calibration: one was not moved, or is silent."""


class AccessError(BridgeError):
    """The certificate of this client does not have the role that the call needs."""


class EmulatorError(BridgeError):
    """Emulated hardware cannot be started, refuses a command or has died."""
