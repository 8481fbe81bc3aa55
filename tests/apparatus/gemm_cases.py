"""Operands of the gemm kernels, and how near to float64 their outputs must be."""

import torch
from kernel_cases import Runner, unit_roundoff
from torch import Tensor

from pi0_edge.kernels.gemm_epilogue import Epilogue
from pi0_edge.kernels.gemm_plan import Plan

GELU_ROUNDINGS = 12
"""Units of float32 roundoff that the device's exponential and division add to GELU, relative to its largest value."""


def scales(*shape: int, seed: int, size: float) -> Tensor:
    return (0.5 + torch.rand(*shape, generator=torch.Generator().manual_seed(seed))) * size


def integers(*shape: int, seed: int, extreme: bool = False) -> Tensor:
    """int8 in ±127; extremes only, if wanted."""
    generator = torch.Generator().manual_seed(seed)
    if extreme:
        return (torch.randint(0, 2, shape, generator=generator) * 254 - 127).to(torch.int8)
    return torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)


def zeros(runner: Runner, plan: Plan) -> Tensor:
    return torch.zeros(plan.workspace_bytes, dtype=torch.uint8, device=runner.device)


def there(runner: Runner, e: Epilogue) -> Epilogue:
    """The epilogue with its tensors where the kernels run."""
    return Epilogue(e.dtype, e.activation, *runner(e.bias, e.gate, e.frozen, e.residual, e.out_scale, e.squares))


def assert_epilogue(out: Tensor, epilogue: Epilogue, exact: Tensor, of_sums: float = 0.0) -> None:
    """Near the exact values [m, columns] before rounding, as far as the type of the output and of the sums allow.

    Args:
        out: From the kernel.
        epilogue: What the kernel did.
        exact: float64, before the last rounding.
        of_sums: Largest error that the sums may have contributed.
    """
    size = exact.abs().amax()
    inner = GELU_ROUNDINGS * unit_roundoff(torch.float32) * (size + 1) + of_sums
    if epilogue.out_scale is None:
        allowed = inner + 1.01 * unit_roundoff(out.dtype) * exact.abs() + torch.finfo(out.dtype).smallest_normal
        assert ((out.cpu().double() - exact).abs() <= allowed).all()
    else:
        steps = (exact / epilogue.out_scale.double()).clamp(-127, 127)
        assert ((out.cpu().double() - steps).abs() <= 0.5 + inner / epilogue.out_scale.item()).all()


def exact_and_error(
    a: Tensor, weight: Tensor, a_scale: Tensor | None, column_scale: Tensor, epilogue: Epilogue
) -> tuple[Tensor, float]:
    """Values before rounding in float64, and how far k float32 additions in any order may move them."""
    sums = a.double() @ weight.double().t()
    exact = epilogue.before_rounding(sums, a_scale, column_scale)
    moved = a.double().abs() @ weight.double().abs().t() * a.shape[1] * unit_roundoff(torch.float32)
    scaled = moved * (1.0 if a_scale is None else a_scale.double()) * column_scale.double()
    gain = 1.0 if epilogue.gate is None else float(epilogue.gate.abs().amax())
    if epilogue.activation == "geglu":  # both factors move, and the slope of GELU is at most 1.13
        plain = Epilogue(torch.float32, bias=epilogue.bias).before_rounding(sums, a_scale, column_scale)
        gain *= 2.3 * float(plain.abs().amax() + 1)
    return exact, float(scaled.amax()) * gain * 1.13
