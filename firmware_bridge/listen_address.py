"""Where the bridge may listen: beyond this machine's loopback only where every client shows a certificate."""

import ipaddress

from firmware_bridge.errors import ConfigError

DEFAULT_LISTEN = "127.0.0.1:50061"


def listen_host(listen: str, *, authenticated: bool) -> str:
    """The host of a `host:port`.

    Args:
        listen: the address; port 0 takes a free one.
        authenticated: whether every client shows a certificate.

    Raises:
        ConfigError: it is no such address, or not on loopback although no client shows a certificate.
    """
    host, separator, port = listen.rpartition(":")
    if not host or not separator or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"listen address {listen!r}; expected host:port, such as {DEFAULT_LISTEN}")
    if not authenticated and host != "localhost" and not _is_loopback(host.strip("[]")):
        raise ConfigError(
            f"listen address {listen!r} is not on this machine's loopback; nothing that moves an arm is offered "
            f"to a network without authentication: use {DEFAULT_LISTEN}, or certificates (--tls)"
        )
    return host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
