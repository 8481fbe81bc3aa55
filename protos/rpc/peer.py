"""Who calls: a name and a role, from the certificate that the TLS handshake has verified."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc

from pi0_edge.protos.rpc.roles import Role, role_of


@dataclass(frozen=True)
class Peer:
    """The other end of a call.

    Attributes:
        name: Common name of its certificate; its address where nobody is asked for one.
        role: What it may do.
    """

    name: str
    role: Role


def peer_of(context: grpc.ServicerContext, *, authenticated: bool) -> Peer:
    """The peer of a call.

    Args:
        context: Of the call.
        authenticated: Whether the connection is of mutual TLS; without, every peer may command.
    """
    if not authenticated:
        return Peer(context.peer(), Role.COMMAND)
    properties: Any = context.auth_context()  # lists of bytes; gRPC's type stubs say otherwise
    names = _texts(properties.get("x509_common_name", ()))
    alternatives = _texts(properties.get("x509_subject_alternative_name", ()))
    return Peer(names[0] if names else context.peer(), role_of(alternatives))


def _texts(values: Iterable[bytes]) -> list[str]:
    return [value.decode(errors="replace") for value in values]
