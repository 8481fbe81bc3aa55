"""Mutual TLS on both ends of a connection, each from its folder (see `tls_files`)."""

from collections.abc import Sequence
from pathlib import Path

import grpc

from pi0_edge.protos.rpc.tls_files import read_tls_folder


def server_credentials(folder: Path) -> grpc.ServerCredentials:
    """Credentials of a server that refuses every peer without a certificate of the same authority.

    Raises:
        EndpointError: As for `read_tls_folder`.
    """
    files = read_tls_folder(folder)
    return grpc.ssl_server_credentials([(files.key, files.certificate)], files.authority, require_client_auth=True)


def open_channel(address: str, tls: Path | None = None, options: Sequence[tuple[str, int | str]] = ()) -> grpc.Channel:
    """A channel to a server; it connects at the first call.

    Args:
        address: host:port; with TLS, one of the hosts that the server's certificate names.
        tls: Folder of this client, where the server asks for a certificate.
        options: Channel options of gRPC.

    Raises:
        EndpointError: As for `read_tls_folder`.
    """
    if tls is None:
        return grpc.insecure_channel(address, options)
    files = read_tls_folder(tls)
    credentials = grpc.ssl_channel_credentials(files.authority, files.key, files.certificate)
    return grpc.secure_channel(address, credentials, options)


def connection_advice(details: str) -> str:
    """What a person may do about a connection that ended with these details; empty where it was not for want of TLS."""
    if "wrong_version_number" in details.lower():
        return "it does not speak TLS; leave --tls out, or start it with --tls"
    refused = ("handshake", "verification", "socket closed", "connection reset", "broken pipe")
    if not any(word in details.lower() for word in refused):
        return ""
    return (
        "it may ask for certificates; then this client needs an unexpired one of the same authority (--tls), and the "
        "server's must name the host of this address. `pi0-edge certificates show` says what a certificate is"
    )
