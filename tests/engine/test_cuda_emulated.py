"""The CUDA engine's whole sequence with the kernels themselves, from their sources or from PTX, on the emulated GPU."""

import copy
from dataclasses import replace

import pytest
import torch
from emulated_operators import emulated_gpu, ptx_gpu
from engine_cases import CPU, attended, largest_inputs, quantized, random_case

from pi0_edge.engine.cuda.network import CudaNetwork, step_tables
from pi0_edge.model.flow import euler_times
from pi0_edge.quant import compare_actions, find_scheme

assert emulated_gpu and ptx_gpu

STEPS = 2


@pytest.mark.parametrize("gpu", ["emulated_gpu", pytest.param("ptx_gpu", marks=pytest.mark.ptx)])
@pytest.mark.parametrize(
    ("variant", "scheme", "frozen"),
    [
        ("pi0", "orin", 0),
        ("pi05", "int8-w8a8", 0),
        ("pi0", "fp8-w8a16", 0),
        ("pi0", "fp8-w8a8", 0),
        ("pi0", "orin", 9),
        ("pi05", "orin", 9),
        ("pi0-cube", "orin", 0),
    ],
)
def test_the_kernels_in_sequence_give_the_actions_of_their_cpu_forms(
    variant: str, scheme: str, frozen: int, gpu: str, request: pytest.FixtureRequest
):
    model, inputs, noise = random_case(variant)
    frames = torch.randint(0, 256, (1, 2, 48, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    seen, inputs = inputs, replace(inputs, images=frames)
    tables, chosen = step_tables(model, euler_times(STEPS), CPU), find_scheme(scheme)
    amax = largest_inputs(model, seen, noise) if chosen.needs_calibration else None

    def actions() -> torch.Tensor:
        network = CudaNetwork(quantized(copy.deepcopy(model), chosen, amax), CPU)
        x = noise[0].clone()
        with torch.inference_mode():
            cache, count = attended(network, inputs), torch.tensor([frozen], dtype=torch.int32)
            network.integrate(x, inputs.state[0], cache, tables, count)
        return x

    expected = actions()
    library = request.getfixturevalue(gpu)
    library.launches()
    found = compare_actions(expected[None], actions()[None])
    launches = library.launches()
    errors = f"cosine {found.cosine:.7f}, largest {found.max_abs_error:.2e}"
    print(f"{variant} {scheme}, {frozen} frozen: {errors}, {len(launches)} launches")
    # What differs in the last of 16 bits may become a neighbour in E4M3, which is 16 times as far.
    assert found.cosine > (0.9998 if scheme == "fp8-w8a8" else 0.99999)
    assert len(launches) > STEPS * model.config.expert.depth * 7
