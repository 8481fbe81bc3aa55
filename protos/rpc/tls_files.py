"""The folder that mutual TLS is done with: the authority to believe, the own certificate and its key.

`pi0-edge certificates` makes such folders; any other tool that writes these three PEM files will do.
"""

import ssl
import stat
from pathlib import Path
from typing import NamedTuple

from pi0_edge.errors import EndpointError

AUTHORITY_FILE = "authority.pem"
CERTIFICATE_FILE = "certificate.pem"
KEY_FILE = "key.pem"


class TlsFiles(NamedTuple):
    """What the three files hold."""

    authority: bytes
    certificate: bytes
    key: bytes


def read_tls_folder(folder: Path) -> TlsFiles:
    """Reads and checks the three files.

    Raises:
        EndpointError: A file is missing, is no PEM, does not fit the others, or others may read the key.
    """
    authority, certificate, key = (folder / name for name in (AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE))
    for path in (authority, certificate, key):
        if not path.is_file():
            raise EndpointError(f"{path} does not exist; `pi0-edge certificates` makes such folders")
    if key.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise EndpointError(f"the key {key} can be read by other users; run `chmod 600 {key}`")
    _check_fit(authority, certificate, key)
    return TlsFiles(authority.read_bytes(), certificate.read_bytes(), key.read_bytes())


def _check_fit(authority: Path, certificate: Path, key: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(authority)
    except (ssl.SSLError, OSError) as error:
        raise EndpointError(f"{authority} is not a certificate in PEM ({error})") from error
    try:
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError) as error:
        raise EndpointError(f"{certificate} and {key} are no certificate in PEM and its key ({error})") from error
