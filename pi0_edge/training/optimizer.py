"""AdamW over fp32 copies of the learned parameters, whatever dtype the network computes in, and their average.

A step of a bf16 weight is often smaller than the distance to the next bf16 number and would be lost. So each learned
bf16 parameter has a *master* in fp32: gradients are added to it, AdamW changes it, and the network's parameter is
rounded from it. A parameter in fp32 is its own master. Bytes per learned bf16 parameter: 2 (weight) + 4 (master) +
4 (gradient) + 8 (moments) + 4 (average); a frozen one has 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.95)


class MasterOptimizer:
    """The learned parameters of a network and all that training keeps of them.

    Attributes:
        masters: float32, by the parameter's name.
        average: Exponential average of the masters, by name.
    """

    def __init__(self, model: nn.Module, weight_decay: float) -> None:
        self._learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.masters: dict[str, Tensor] = {}
        for name, parameter in self._learned.items():
            if parameter.dtype is torch.float32:
                self.masters[name] = parameter
            else:
                self.masters[name] = parameter.detach().float()
                self._add_gradients_to(self.masters[name], parameter)
        self.average = {name: master.detach().clone() for name, master in self.masters.items()}
        self._adamw = torch.optim.AdamW(self.masters.values(), betas=BETAS, weight_decay=weight_decay)

    @property
    def count(self) -> int:
        """Learned numbers."""
        return sum(master.numel() for master in self.masters.values())

    def clip(self, largest: float) -> float:
        """Scales the gradients so that their common norm is at most `largest`; returns the norm before."""
        return float(torch.nn.utils.clip_grad_norm_(self.masters.values(), largest))

    def step(self, learning_rate: float, average_decay: float) -> None:
        """One step of AdamW, rounding of the network's weights, one step of the average; gradients are forgotten."""
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self.forget_gradients()
        with torch.no_grad():
            for name, master in self.masters.items():
                self.average[name].lerp_(master, 1 - average_decay)
        self._round()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Puts the average into the network for the time of a `with` block."""
        self._exchange_fp32()
        with torch.no_grad():
            for name, parameter in self._of_other_dtype():
                parameter.copy_(self.average[name])
        try:
            yield
        finally:
            self._exchange_fp32()
            self._round()

    def forget_gradients(self) -> None:
        """Drops what was added so far."""
        self._adamw.zero_grad()
        for parameter in self._learned.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Everything a run needs to go on, by names for a file."""
        tensors = {f"average.{name}": value for name, value in self.average.items()}
        for name, master in self.masters.items():
            tensors[f"weight.{name}"] = master.detach()
            moments = self._adamw.state[master]
            tensors[f"moment1.{name}"], tensors[f"moment2.{name}"] = moments["exp_avg"], moments["exp_avg_sq"]
        return tensors

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Goes on from `state`, which was taken after `step` steps."""
        for name, master in self.masters.items():
            master.copy_(tensors[f"weight.{name}"])
            self.average[name].copy_(tensors[f"average.{name}"])
            self._adamw.state[master] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"moment1.{name}"],
                "exp_avg_sq": tensors[f"moment2.{name}"],
            }
        self._round()

    @torch.no_grad()
    def _round(self) -> None:
        for name, parameter in self._of_other_dtype():
            parameter.copy_(self.masters[name])

    def _of_other_dtype(self) -> list[tuple[str, nn.Parameter]]:
        """The learned parameters that are not their own masters."""
        return [(name, p) for name, p in self._learned.items() if p is not self.masters[name]]

    def _exchange_fp32(self) -> None:
        """Exchanges the memory of masters and averages where the master is the network's parameter: no copy is made."""
        for name, parameter in self._learned.items():
            if parameter is self.masters[name]:
                parameter.data, self.average[name] = self.average[name], parameter.data

    @staticmethod
    def _add_gradients_to(master: Tensor, parameter: Tensor) -> None:
        def add(learned: Tensor) -> None:
            gradient, learned.grad = learned.grad, None
            if gradient is not None:  # always there when torch calls this
                master.grad = gradient.float() if master.grad is None else master.grad.add_(gradient)

        # At once, so that the bf16 gradients of two layers never exist together.
        parameter.register_post_accumulate_grad_hook(add)
