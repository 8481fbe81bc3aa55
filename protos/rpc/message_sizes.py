"""Messages that are larger than one end takes: gRPC reports them like a server that is busy, but they never pass."""

import re

_TOO_LARGE = re.compile(r"larger than max \((\d+) vs\. (\d+)\)")


def too_large(details: str) -> str:
    """How large a message was and may be, in MiB, from the details of a failed call; empty where it ended otherwise."""
    found = _TOO_LARGE.search(details)
    return "" if found is None else f"{_mebibytes(found[1])} MiB, expected at most {_mebibytes(found[2])} MiB"


def is_answer(details: str) -> bool:
    """Whether it was the answer that was too large, which the client itself refuses."""
    return "CLIENT: Received" in details


def _mebibytes(digits: str) -> str:
    return f"{int(digits) / 2**20:.3g}"
