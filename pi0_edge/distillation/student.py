"""The student: the teacher's network, taught to cover in one Euler step what the teacher covers in several.

A student of N steps is asked at the times t_k = 1 − k/N alone, each time for a step of length 1/N. So the time tells
which part of the teacher's path the step covers, and the network needs no second input: weights, shapes and engines
stay as they are. What it learns at t_k is the velocity that covers this part in one step,

    u_k = N · (x_k − Φ_k(x_k)),   Φ_k = the next n_k of the teacher's Euler steps.

The parts n_k need not be equal, as t_k only names the part. Where the teacher has two ways, noise between both is
pulled apart along the path, and a step is the steeper a function the more of that it covers, so a part may be short
where that is fast (`docs/distillation.md` has figures). What is learned is the squared error
e² = (u_k − v(x_k, t_k))². The start x_0 is noise and x_(k+1) = x_k − v(x_k, t_k)/N is where the student itself arrives,
so that it learns from the inputs that it will have. Φ_k is a function and no average over data, so the error has its
minimum where both maps of noise to actions are the same one, with all their modes.

The error of each chunk is divided by its own root mean square, so that an observation for which the teacher's chunks
differ little counts about as much as one for which they differ much: what a chunk may be off by is a share of that
spread (`pi0_edge.ptq.distribution`), and in the plain mean the widest observations would be nearly all of the loss. The
gradient is half of that of √(e² + c²), the pseudo-Huber loss of Song and Dhariwal (arXiv 2310.14189), for each chunk.
Far below c that is the squared error, which chunks with large errors dominate: where the teacher has two ways, those
are the chunks whose noise lies between both, and they must be learned. So c is an option.

Sources: one step per interval of the teacher's path, Salimans and Ho, Progressive Distillation (arXiv 2202.00512) and,
for one step in all, Liu et al., Rectified Flow, section 2.2 (arXiv 2209.03003); the student's own path, Chen et al.,
π-Flow (arXiv 2510.14974). SnapFlow (arXiv 2604.05656) has Φ of two steps, taken by the network that learns, and tells
the length of the step by a second embedding; docs/distillation.md compares.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pi0_edge.model import ModelInputs, Pi0
from pi0_edge.model.pi0 import Context, StepConditioning
from pi0_edge.model.rtc import frozen_actions

FLOOR = 0.01
"""c above, where no other is given: root mean square error of a chunk's velocities, normalized."""
SHARED = ("vision", "projector", "token_embedding", "prefix")
"""Parts that see the observation alone. The student has them from the teacher, and keeps them."""


class Student(Pi0):
    """A π0 that learns from another one; its `loss` takes the place of that of flow matching.

    The action expert with its projections learns. What comes before it is the teacher's own: one pass over the prefix
    serves both, and its quantization is not touched.
    """

    def __init__(
        self,
        teacher: Pi0,
        times: Tensor,
        teacher_times: Tensor,
        real_dims: int | None = None,
        floor: float = FLOOR,
        parts: Sequence[int] | None = None,
    ) -> None:
        """Begins as a copy of the teacher.

        Args:
            teacher: Is not changed, except that it asks for no gradients any more.
            times: float32 [steps] of the student, from `flow.euler_times`.
            teacher_times: float32 of the teacher.
            real_dims: Leading action dimensions that carry meaning; all where None. The others weigh nothing.
            floor: c above.
            parts: n_k above, of each step; equal ones where None.

        Raises:
            ValueError: If the parts are not those of so many steps, or the steps are no multiple where none are given.
        """
        super().__init__(teacher.config)
        self.load_state_dict(teacher.state_dict())
        self.residual_dtype = teacher.residual_dtype
        for part in SHARED:
            setattr(self, part, getattr(teacher, part))
        teacher.requires_grad_(False)
        self._teacher = (teacher,)  # a tuple, so that the teacher's weights do not count as the student's
        self.times = times
        self.teacher_times = teacher_times
        self.real_dims = real_dims
        self.floor = floor
        self.parts = equal_parts(len(teacher_times), len(times)) if parts is None else tuple(parts)
        check_parts(self.parts, len(teacher_times), len(times))

    def loss(
        self,
        inputs: ModelInputs,
        actions: Tensor,
        noise: Tensor,
        times: Tensor,
        frozen: Tensor | None = None,
        prefix: Context | None = None,
    ) -> Tensor:
        """The squared errors of each chunk over their root mean square; the mean is about that of the latter.

        Args:
            inputs: See `squared_errors`, as for all others.
            actions: See there.
            noise: See there.
            times: Not used: a student learns at the times of its steps alone.
            frozen: See there.
            prefix: See there.

        Returns:
            float32 [draws * batch, horizon, action_dim].
        """
        squared = self.squared_errors(inputs, actions, noise, frozen, prefix)
        real = squared.detach()[..., : self.real_dims].mean(-1)
        counted = torch.ones_like(real) if frozen is None else (~frozen_actions(frozen, real.shape[1])).float()
        of_chunk = (real * counted).sum(1) / counted.sum(1).clamp(min=1)
        return squared / (of_chunk + self.floor**2).sqrt()[:, None, None]

    def squared_errors(
        self,
        inputs: ModelInputs,
        actions: Tensor,
        noise: Tensor,
        frozen: Tensor | None = None,
        prefix: Context | None = None,
    ) -> Tensor:
        """Squared error of the velocities, mean over the steps of the student.

        Args:
            inputs: The observations [batch].
            actions: Normalized chunks, float32 [batch, horizon, action_dim]; only frozen ones are read.
            noise: float32 [draws * batch, horizon, action_dim], see `Pi0.loss`.
            frozen: int64 [draws * batch]: so many leading actions are shown as they are, at time 0, to teacher and
                student (arXiv 2512.05964); their loss means nothing. None freezes none.
            prefix: `attend_prefix` of these inputs, where it is known.

        Returns:
            float32 [draws * batch, horizon, action_dim].
        """
        teacher = self._teacher[0]
        rows, horizon = noise.shape[:2]
        draws = rows // len(actions)
        fixed = frozen_actions(torch.zeros(rows, dtype=torch.int64) if frozen is None else frozen, horizon)
        with torch.no_grad():
            prefix = self.attend_prefix(inputs) if prefix is None else prefix
            taught = teacher.attend_state(prefix, inputs.state).repeated(draws)
        learning = self.attend_state(prefix, inputs.state).repeated(draws)
        x = torch.where(fixed[..., None], actions.repeat_interleave(draws, 0), noise)
        table, taught_table = _tabulated(self, self.times), _tabulated(teacher, self.teacher_times)
        errors, first = [], 0
        for step, part in enumerate(self.parts):
            arrived = x
            with torch.no_grad():
                for small in range(first, first + part):
                    velocity = teacher.velocity(arrived, _at(taught_table, small, fixed), taught)
                    arrived = _moved(arrived, velocity / len(self.teacher_times), fixed)
            velocity = self.velocity(x, _at(table, step, fixed), learning)
            first += part
            errors.append(((x - arrived) * len(self.times) - velocity).square())
            x = _moved(x, velocity.detach() / len(self.times), fixed)
        return torch.stack(errors).mean(0)


def equal_parts(teacher_steps: int, steps: int) -> tuple[int, ...]:
    """The teacher's steps in as many equal parts as the student has steps.

    Raises:
        ValueError: If that cannot be.
    """
    if teacher_steps % steps:
        raise ValueError(f"a teacher of {teacher_steps} steps cannot teach {steps}; expected a multiple of them")
    return (teacher_steps // steps,) * steps


def check_parts(parts: Sequence[int], teacher_steps: int, steps: int) -> None:
    """Raises `ValueError` where the parts are not those of a teacher and a student of so many steps."""
    if len(parts) != steps or min(parts, default=0) < 1 or sum(parts) != teacher_steps:
        found = ", ".join(map(str, parts))
        raise ValueError(f"parts are {found}; expected {steps} of at least 1 that sum to {teacher_steps}")


def _tabulated(model: Pi0, times: Tensor) -> StepConditioning:
    """What depends on time, of every step, and last of time 0."""
    return model.condition(F.pad(times, (0, 1)))


def _at(table: StepConditioning, step: int, fixed: Tensor) -> StepConditioning:
    """Of one step; the actions that are fixed, bool [rows, horizon], are at time 0."""
    return table.per_action(torch.where(fixed, -1, step)) if fixed.any() else table.at(step)


def _moved(x: Tensor, step: Tensor, fixed: Tensor) -> Tensor:
    """One Euler step of what is not fixed."""
    return torch.where(fixed[..., None], x, x - step)
