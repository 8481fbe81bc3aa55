"""Where the bridge listens: on this machine's loopback, because nothing here asks a client who it is."""

import ipaddress

from firmware_bridge.errors import ConfigError

DEFAULT_LISTEN = "127.0.0.1:50061"


def loopback_host(listen: str) -> str:
    """The host of a `host:port` on loopback.

    Raises:
        ConfigError: it is no such address.
    """
    host, separator, port = listen.rpartition(":")
    if not separator or not port.isdigit():
        raise ConfigError(f"listen address {listen!r}; expected host:port, such as {DEFAULT_LISTEN}")
    if host != "localhost" and not _is_loopback(host.strip("[]")):
        raise ConfigError(
            f"listen address {listen!r} is not on this machine's loopback; nothing that moves an arm is offered "
            f"to a network without authentication: use {DEFAULT_LISTEN} and a tunnel"
        )
    return host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
