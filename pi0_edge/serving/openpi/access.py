"""Who may connect to the openpi server: loopback, or over TLS with an API key.

openpi's stock client can present no certificate. It believes the authorities of its system, and sends the header
`Authorization: Api-Key KEY`. A browser sends the header Origin, and would let any web page drive the robot.
"""

from __future__ import annotations

import hmac
import re
import ssl
import stat
from pathlib import Path

from pi0_edge.errors import EndpointError
from pi0_edge.protos.rpc.listen import listen_host
from pi0_edge.protos.rpc.tls_files import AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE, read_tls_folder

OPENPI_LISTEN = "127.0.0.1:8000"
SHORTEST_KEY = 16

_KEY = re.compile(r"[!-~]+")


def listen_address(listen: str, *, tls: bool, api_key: bool, allow_remote: bool) -> tuple[str, int]:
    """Host and port of a listen address.

    Args:
        listen: host:port, or a port of loopback; port 0 takes a free one.
        tls: Whether the connection is encrypted.
        api_key: Whether every client must know a key.
        allow_remote: Whether the user opens it to other machines although one of these is missing.

    Raises:
        EndpointError: If it is no address, or beyond loopback without what that needs.
    """
    address = f"127.0.0.1:{listen}" if listen.isdigit() else listen
    try:
        host = listen_host(address, authenticated=tls and api_key, default=OPENPI_LISTEN, allow_remote=allow_remote)
    except EndpointError as error:
        raise EndpointError(f"openpi: {error}. Beyond loopback openpi needs both TLS and an API key") from error
    return host, int(address.rpartition(":")[2])


def read_api_key(path: Path) -> str:
    """The key in a file, whose only line it is.

    Raises:
        EndpointError: If the file cannot be read, others may read it, or the key is short or no plain text.
    """
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise EndpointError(f"the API key {path} cannot be read ({error}); expected one line of text") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise EndpointError(f"the API key {path} can be read by other users; run `chmod 600 {path}`")
    if len(text) < SHORTEST_KEY or not _KEY.fullmatch(text):
        raise EndpointError(
            f"the API key in {path} has {len(text)} characters; expected one line of at least {SHORTEST_KEY} without "
            "spaces, as `openssl rand -hex 32` makes it"
        )
    return text


def knows_key(header: str | None, api_key: str) -> bool:
    """Whether the value of the header Authorization holds the key; takes the same time for every wrong one."""
    return hmac.compare_digest((header or "").encode("utf-8", "replace"), f"Api-Key {api_key}".encode())


def server_tls(folder: Path) -> ssl.SSLContext:
    """Encrypts with the certificate of a folder as `pi0-edge certificates server` makes it; asks clients for none.

    Raises:
        EndpointError: If something is wrong with the folder.
    """
    read_tls_folder(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A ticket arrives while the client sends its handshake in another thread; Python's TLS is not made for that, and a
    # few in a thousand of openpi's clients then wait for an answer until they give up.
    context.num_tickets = 0
    context.load_cert_chain(folder / CERTIFICATE_FILE, folder / KEY_FILE)
    context.load_verify_locations(folder / AUTHORITY_FILE)
    return context
