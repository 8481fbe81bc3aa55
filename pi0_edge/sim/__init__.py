"""The simulated ALOHA: environment, scripted expert and demonstration recorder (extra ``sim``)."""

import contextlib
import importlib

# Mesa's software renderer and triton, which CUDA builds of torch bring along, each load an LLVM. Triton takes the
# process down where it comes second, and torch loads it unasked (with the first optimizer, for one). So it comes first.
with contextlib.suppress(ImportError):
    importlib.import_module("triton")
