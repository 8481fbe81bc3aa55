"""Who may make which call: the one table behind every server, the certificates and docs/network.md."""

from enum import IntEnum

_ROLE_URI = "pi0-edge://role/"


class Role(IntEnum):
    """What a peer may do; each role may do all that the one before it may."""

    ESTOP = 1  # every peer whose certificate is of our authority
    OBSERVE = 2
    COMMAND = 3

    @property
    def uri(self) -> str:
        """The subject alternative name that gives a certificate this role."""
        return _ROLE_URI + self.name.lower()


ESTOP_CALL = "/pi0_edge.v1.RobotBridge/EStop"

# The least role for each call. A call that is not here is refused to everyone.
CALLS = {
    ESTOP_CALL: Role.ESTOP,
    "/grpc.health.v1.Health/Check": Role.ESTOP,
    "/grpc.health.v1.Health/List": Role.OBSERVE,
    "/grpc.health.v1.Health/Watch": Role.OBSERVE,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Role.OBSERVE,
    "/pi0_edge.v1.RobotBridge/GetStatus": Role.OBSERVE,
    "/pi0_edge.v1.RobotBridge/WatchTelemetry": Role.OBSERVE,
    "/pi0_edge.v1.PolicyService/GetMetadata": Role.OBSERVE,
    "/pi0_edge.v1.RobotBridge/Arm": Role.COMMAND,
    "/pi0_edge.v1.RobotBridge/Disarm": Role.COMMAND,
    "/pi0_edge.v1.RobotBridge/Clear": Role.COMMAND,
    "/pi0_edge.v1.RobotBridge/Release": Role.COMMAND,
    "/pi0_edge.v1.RobotBridge/PlayChunks": Role.COMMAND,
    "/pi0_edge.v1.PolicyService/Infer": Role.COMMAND,
}


def role_of(names: list[str]) -> Role:
    """The role that the subject alternative names of a certificate of our authority give; ESTOP where none does."""
    roles = {role.uri: role for role in Role}
    found = {roles[name] for name in names if name in roles}
    return min(found, default=Role.ESTOP)
