"""A receipt: a signed result with everything that is needed to make it again, and whether it holds here and now.

The signature is of the canonical JSON of everything in the file but the signature itself: keys sorted, no spaces. The
keys are those of bundles (`pi0-edge bundle keygen`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pi0_edge.bench.comparison import FEWEST_PAIRS, Comparison, compare_samples, run_noise
from pi0_edge.bench.interference import LOADS
from pi0_edge.bench.opening import TargetRequest
from pi0_edge.bench.result import BenchResult, parse_result
from pi0_edge.bench.running import BenchPlan
from pi0_edge.bundle import open_bundle
from pi0_edge.bundle.keys import check_signature, make_signature
from pi0_edge.errors import BenchError, BundleError
from pi0_edge.json_files import read_json_object
from pi0_edge.latency.stages import Boundary
from pi0_edge.synced_files import save_synced

SCHEMA = "pi0-edge-receipt"
VERSION = 1

_SIGNATURE = "signature"
_ADVICE = "give the file that `pi0-edge bench --receipt` wrote"


@dataclass(frozen=True)
class Receipt:
    """What a receipt says.

    Attributes:
        result: All of the bench, its samples included.
        noise: Mode of a run -> by how much its median wandered within itself: what a repetition may differ by.
        signed: Whether the signature was checked with a key.
    """

    result: BenchResult
    noise: Mapping[str, float]
    signed: bool


@dataclass(frozen=True)
class Verification:
    """A repetition against a receipt.

    Attributes:
        comparisons: Of the runs that both have.
        reasons: Why the receipt does not hold, one sentence each; empty where it holds.
    """

    comparisons: tuple[Comparison, ...]
    reasons: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether the repetition is as fast as the receipt says, within the noise of both."""
        return not self.reasons


def write_receipt(result: BenchResult, path: Path, private_key: Path) -> None:
    """Signs a result.

    Args:
        result: A valid one.
        path: Gets the receipt, whole or not at all.
        private_key: PEM file.

    Raises:
        BenchError: If the result is void, or the file cannot be written.
        BundleError: If the key is none.
    """
    if not result.verdict.valid:
        raise BenchError(f"a void result gets no receipt: {'; '.join(result.verdict.reasons)}")
    noise = {run.mode: round(run_noise(run.samples), 6) for run in result.runs}
    said = {"schema": SCHEMA, "version": VERSION, "noise": noise, "result": result.to_dict()}
    signature = make_signature(_canonical(said), private_key)
    content = json.dumps({**said, _SIGNATURE: signature.hex()}, separators=(",", ":"), allow_nan=False) + "\n"
    try:
        save_synced(path, content.encode())
    except OSError as error:
        raise BenchError(f"{path} cannot be written ({error.strerror})") from error


def read_receipt(path: Path, public_key: Path | None = None) -> Receipt:
    """Reads a receipt, and checks who signed it.

    Args:
        path: The file.
        public_key: PEM file of the key that must have signed it; None checks no signature.

    Raises:
        BenchError: If it is no receipt, or was changed or signed with another key.
    """
    read = read_json_object(path, BenchError, _ADVICE)
    if read.get("schema") != SCHEMA or read.get("version") != VERSION:
        found = f"{read.get('schema')} version {read.get('version')}"
        raise BenchError(f"{path} holds {found}, expected {SCHEMA} version {VERSION}; {_ADVICE}")
    if public_key is not None:
        _check(read, path, public_key)
    noise = read.get("noise")
    if not isinstance(noise, dict) or not all(isinstance(value, int | float) for value in noise.values()):
        raise BenchError(f"the noise of {path} is {noise!r}, expected a number for each mode; {_ADVICE}")
    result = read.get("result")
    if not isinstance(result, dict):
        raise BenchError(f"{path} has no result; {_ADVICE}")
    return Receipt(
        parse_result(result, str(path)), {str(k): float(v) for k, v in noise.items()}, public_key is not None
    )


def repetition(receipt: Receipt, request: TargetRequest, plan: BenchPlan) -> tuple[TargetRequest, BenchPlan]:
    """What makes the bench of a receipt again: its boundary, protocol, engine, threads, runs and loads.

    Args:
        receipt: What is made again.
        request: Names the bundle, which may lie elsewhere now, and server and keys of this machine.
        plan: Of which only the command is kept.

    Raises:
        BenchError: If the receipt has no runs, or the bundle is another one.
    """
    said = receipt.result
    if not said.runs:
        raise BenchError("the receipt has no runs, so nothing can be made again")
    if request.bundle is not None and (found := open_bundle(request.bundle).sha256) != said.policy.bundle_sha256:
        raise BenchError(
            f"{request.bundle} is the bundle {found[:16]}, and the receipt is about "
            f"{said.policy.bundle_sha256[:16] or said.policy.name}; give that one"
        )
    periods = [run.period_ms for run in said.runs if run.period_ms is not None]
    again = replace(
        request,
        boundary=Boundary(said.boundary),
        protocol="openpi" if said.policy.protocol == "openpi" else "grpc",
        engine=said.policy.engine,
        threads=said.policy.threads,
        scheme=said.policy.scheme if request.random is not None else None,
        cameras=said.policy.cameras,
        tokens=said.policy.tokens,
        against=None,
    )
    ran = "\n".join(said.interference)
    loads = tuple(name for name, arguments in LOADS.items() if " ".join(arguments) in ran)
    return again, replace(
        plan,
        modes=tuple(run.mode for run in said.runs),
        seconds=max(run.seconds for run in said.runs),
        chunks=FEWEST_PAIRS,
        period_s=periods[0] * 1e-3 if periods else None,
        budget_ms=said.runs[0].budget_ms,
        loads=loads,
    )


def verify_repetition(receipt: Receipt, again: BenchResult) -> Verification:
    """Whether a repetition holds what a receipt says.

    Faster is no breach. Slower is one where the whole interval of the ratio lies above the noise that both state.

    Args:
        receipt: What was said.
        again: A result of the same command.
    """
    said, reasons, comparisons = receipt.result, list[str](), list[Comparison]()
    for name, before, now in (
        ("bundle", _what(said), _what(again)),
        ("engine", said.policy.engine, again.policy.engine),
        ("scheme", said.policy.scheme, again.policy.scheme),
        ("boundary", said.boundary, again.boundary),
        ("protocol", said.policy.protocol or "grpc", again.policy.protocol or "grpc"),
        ("number of Euler steps", said.policy.euler_steps, again.policy.euler_steps),
    ):
        if before != now:
            reasons.append(f"the {name} is {now}, and the receipt is about {before}")
    reasons += [f"the repetition is void: {reason}" for reason in again.verdict.reasons]
    for run in said.runs:
        other = again.run(run.mode)
        if other is None:
            reasons.append(f"the repetition has no {run.mode} run")
            continue
        found = compare_samples(run.samples, other.samples, run.mode, paired=False)
        comparisons.append(found)
        allowed = max(receipt.noise.get(run.mode, 0.0), found.noise)
        if found.low > 1 + allowed:
            interval = f"{found.ratio:.3f} times the receipt's median [{found.low:.3f}, {found.high:.3f}]"
            reasons.append(f"{run.mode}: {interval}, expected at most {1 + allowed:.3f}")
    return Verification(tuple(comparisons), tuple(reasons))


def _what(result: BenchResult) -> str:
    """The bundle by its hash; random weights, which have none, by the name of their network."""
    return result.policy.bundle_sha256[:16] or result.policy.name


def _check(read: Mapping[str, Any], path: Path, public_key: Path) -> None:
    said = {name: value for name, value in read.items() if name != _SIGNATURE}
    try:
        signature = bytes.fromhex(str(read.get(_SIGNATURE, "")))
        check_signature(_canonical(said), signature, public_key)
    except ValueError as error:
        raise BenchError(f"the signature of {path} is not hexadecimal; {_ADVICE}") from error
    except BundleError as error:
        raise BenchError(f"the receipt {path} is refused: {error}") from error


def _canonical(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
