"""Where a service may listen: beyond this machine's loopback only where every client shows a certificate."""

from __future__ import annotations

import ipaddress

from pi0_edge.errors import EndpointError

BRIDGE_LISTEN = "127.0.0.1:50061"
POLICY_LISTEN = "127.0.0.1:50051"


def listen_host(listen: str, *, authenticated: bool, default: str, allow_remote: bool = False) -> str:
    """The host of a listen address.

    Args:
        listen: host:port; port 0 takes a free one.
        authenticated: Whether every client shows a certificate.
        default: Address to recommend in messages.
        allow_remote: Whether the user opens the service to other machines although no client is authenticated.

    Raises:
        EndpointError: If it is not host:port, or can be reached from other machines although no client is
            authenticated and nobody allowed that.
    """
    host, separator, port = listen.rpartition(":")
    if not host or not separator or not port.isdigit() or int(port) > 65535:
        raise EndpointError(f"listen address {listen!r} is not host:port; expected for example {default}")
    if not (authenticated or allow_remote or _is_loopback(host)):
        raise EndpointError(
            f"listen address {listen!r} can be reached from other machines, and no client is authenticated; expected "
            f"loopback such as {default}, or certificates (tls)"
        )
    return host


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
