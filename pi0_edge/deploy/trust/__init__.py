"""Who may release, and what a robot believes: keys, signatures and their verification, with TUF metadata.

    workstation:  init_trust("trust")                       keys, and root metadata that says which keys count
                  sign_release("bundles/cups", sequence=7)  a statement beside the bundle
                  rotate_key("trust", "release")            another key from now on; robots follow by themselves
    robot:        trust_root(tuf, root)                     once, when it is provisioned
                  verify_release(staged, tuf, …)            before anything of a release is used

TUF (The Update Framework) is what refuses an older release, one that was held back until it expired, parts of two
releases, and the signatures of a key that was replaced. python-tuf implements it; here is what surrounds it: where the
files lie, that they survive a power cut, which time counts, and what a refusal says. docs/flash/trust.md explains it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pi0_edge.deploy.trust.inspection import SignedRelease, read_release
    from pi0_edge.deploy.trust.rotation import rotate_key
    from pi0_edge.deploy.trust.signing import sign_release
    from pi0_edge.deploy.trust.statement import StatementOptions
    from pi0_edge.deploy.trust.trust_folder import TrustFolder, init_trust
    from pi0_edge.deploy.trust.verification import VerifiedRelease, trust_root, verify_release

_MODULES = {
    "SignedRelease": "inspection",
    "StatementOptions": "statement",
    "TrustFolder": "trust_folder",
    "VerifiedRelease": "verification",
    "init_trust": "trust_folder",
    "read_release": "inspection",
    "rotate_key": "rotation",
    "sign_release": "signing",
    "trust_root": "verification",
    "verify_release": "verification",
}

__all__ = [
    "SignedRelease",
    "StatementOptions",
    "TrustFolder",
    "VerifiedRelease",
    "init_trust",
    "read_release",
    "rotate_key",
    "sign_release",
    "trust_root",
    "verify_release",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
