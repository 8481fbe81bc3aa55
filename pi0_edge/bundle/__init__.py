"""The bundle: one folder that is all a robot needs, checked before anything in it is used.

    manifest.json         what the policy is, and size and SHA-256 of every other file  (`manifest`)
    manifest.sha256       SHA-256 of the manifest and of its signature                  (`checksums`)
    manifest.sig          optional: Ed25519 signature of the manifest                   (`keys`)
    weights-i8-00000.safetensors, ...                                                   (`shards`)
    norm_stats.json, tokenizer.json or tokenizer.model
    gate_report.html      optional: report of the accuracy gate, to read
    training_profile.json optional: what the training data looked like
    self_test.safetensors optional: observations with the chunks of fp32, for a robot  (`self_test_vectors`)

`write_bundle` makes one in a single step that succeeds or leaves nothing; `open_bundle` refuses one that differs from
what was written in a single byte, and gives configuration, processor and memory-mapped weights. Nothing in a bundle
is executable: JSON, numbers and text only. docs/bundle.md has the format.

What needs torch is imported when it is first used: the installer on a robot checks files without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pi0_edge.bundle.keys import write_key_pair
    from pi0_edge.bundle.reading import Bundle, GateState, open_bundle
    from pi0_edge.bundle.writing import sign_bundle, write_bundle

_MODULES = {
    "Bundle": "reading",
    "GateState": "reading",
    "open_bundle": "reading",
    "sign_bundle": "writing",
    "write_bundle": "writing",
    "write_key_pair": "keys",
}

__all__ = ["Bundle", "GateState", "open_bundle", "sign_bundle", "write_bundle", "write_key_pair"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
