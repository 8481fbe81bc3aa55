"""How many kernels a sequence of operators would launch on a GPU, counted as it runs on the CPU."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class Launches(TorchDispatchMode):
    """Counts operators that are a launch on a GPU: ours, and of torch all that are no view of memory or new memory."""

    VIEWS = "view _unsafe_view slice select t transpose permute expand unbind split split_with_sizes unsqueeze squeeze"
    NONE = frozenset(f"{VIEWS} detach alias as_strided empty new_empty empty_like".split())

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.partition(".")[0]
        if func.namespace == "pi0" or name not in self.NONE:
            self.count += 1
        if name == "addmm" and args[0].ndim == 2:  # copies what it adds to before it multiplies
            self.count += 1
        return func(*args, **(kwargs or {}))
