"""Where the policy server may listen: beyond loopback only where clients show certificates, or told so by name."""

from __future__ import annotations

import ipaddress

from pi0_edge.serving.errors import ServingError

DEFAULT_LISTEN = "127.0.0.1:50051"
REMOTE_FLAG = "--insecure-allow-remote"


def checked_listen_address(listen: str, allow_remote: bool, authenticated: bool = False) -> str:
    """The host of `listen`.

    Args:
        listen: host:port; port 0 takes a free one.
        allow_remote: Whether an address other machines can reach is meant.
        authenticated: Whether every client shows a certificate.

    Raises:
        ServingError: If it is no host:port, or not on loopback with neither of the two.
    """
    host, separator, port = listen.rpartition(":")
    if not host or not separator or not port.isdigit() or int(port) > 65535:
        raise ServingError(f"listen address {listen!r} is not host:port; expected for example {DEFAULT_LISTEN}")
    if not (allow_remote or authenticated or _is_loopback(host)):
        raise ServingError(
            f"listen address {listen!r} is reachable from other machines, and no client is asked who it is; expected "
            f"loopback such as {DEFAULT_LISTEN}, or certificates (--tls). {REMOTE_FLAG} opens it all the same"
        )
    return host


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
